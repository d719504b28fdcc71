"""Read the heads of models that read whole texts from config.json: their labels, and how scores are computed
from logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ...config import (
    Classify,
    Config,
    Decoder,
    DecoderReader,
    Dense,
    Embedding,
    Encoder,
    EncoderDecoder,
    MaskedLM,
    Pool,
    Pooling,
    QuestionAnswering,
    ReadingHead,
    Stack,
    Tag,
)
from .keys import Keys

ProblemType = Literal["single", "multi", "regression"]
PROBLEM_TYPES: dict[str, ProblemType] = {
    "regression": "regression",
    "single_label_classification": "single",
    "multi_label_classification": "multi",
}

OLDER_FUNCTION = "sbert_ce_default_activation_function"
FUNCTIONS: dict[str, ProblemType] = {
    "torch.nn.modules.linear.Identity": "regression",
    "torch.nn.modules.activation.Sigmoid": "multi",
}

# decoder_start_token_id of transformers' classes of configs, for those that have one.
STARTS = {"bart": (2,), "led": (2,), "mt5": (0,), "umt5": (0,)}


def labels(keys: Keys) -> int:
    """Return the number of a head's labels: the number of names in `id2label`, otherwise `num_labels`,
    otherwise two.
    """
    named, count = keys.get("id2label", dict, None), keys.size("num_labels", None)
    if named is None:
        return count or 2
    if count not in (None, len(named)):
        raise keys.fail("num_labels", f"the number of names in id2label ({len(named)})")
    return len(named)


def problem_type(keys: Keys, count: int) -> ProblemType:
    """Return how the logits of `count` labels become scores: by a softmax ("single"), by a sigmoid for each
    label ("multi"), or unchanged ("regression").

    If the config has no key for this, the rule of transformers' pipeline applies: a sigmoid for one label,
    otherwise a softmax. A cross-encoder of the sentence-transformers library names a torch module instead.
    Older versions use another key for this name, which is read if the newer key is absent.
    """
    rerank = Keys(keys.get("sentence_transformers", dict, None) or {}, f"{keys.where}: sentence_transformers")
    rerank.unused("version")
    rerank_type = rerank.choice("activation_fn", FUNCTIONS) if "activation_fn" in rerank else None
    rerank.finish({})
    if keys.get(OLDER_FUNCTION, str, None) is not None:
        older = keys.choice(OLDER_FUNCTION, FUNCTIONS)
        rerank_type = rerank_type or older
    if keys.get("problem_type", str, None) is not None:
        kinds = {name: kind for name, kind in PROBLEM_TYPES.items() if count > 1 or kind != "single"}
        return keys.choice("problem_type", kinds)
    return rerank_type or ("single" if count > 1 else "multi")


def head(
    keys: Keys,
    task: str,
    *,
    masked: MaskedLM,
    classify: Dense | None,
    pooling: Pooling = "first",
    late: bool = False,
    token: Dense | None = None,
    pooler: Dense | None = None,
) -> ReadingHead:
    """Return the head of an encoder for a task.

    `masked` is the head that predicts masked tokens. `classify` is the dense layer before the logits of a
    text, and `token` the one before the logits of each token. `late` is the option of `Classify`. Without a
    `pooler`, an embedding is the mean of the vectors.
    """
    if keys.get("is_decoder", bool, False):
        raise keys.fail("is_decoder", "false: with true, tokens don't see later tokens")
    match task:
        case "masked":
            return masked
        case "classify":
            return replace(_classify(keys, pooling, classify), late=late)
        case "tag":
            return Tag(labels(keys), token)
        case "answer":
            return _answer(keys, token)
        case _:
            return Pool("mean") if pooler is None else Pool("first", pooler)


def _classify(keys: Keys, pooling: Pooling, dense: Dense | None, *, bias: bool = True) -> Classify:
    count = labels(keys)
    return Classify(count, pooling, dense, bias, problem_type(keys, count))


def _answer(keys: Keys, dense: Dense | None) -> QuestionAnswering:
    if labels(keys) != 2:
        raise keys.fail("id2label", "an object with two labels: the start and the end of an answer")
    return QuestionAnswering(dense)


def reading(config: Config, keys: Keys, task: str, *, causal: bool = True) -> Config:
    """Return a model that reads whole texts, made of a model that generates. The head is the one for `task`.

    In a model with an encoder and a decoder, only the encoder computes embeddings and labels of tokens. All
    other tasks use both. In a decoder the vector of the last token, which sees all other tokens, represents
    the text. Without `causal` every token of the decoder sees all other tokens.
    """
    embedding, context = config.embedding, config.context
    match config:
        case EncoderDecoder(encoder=encoder) if task in ("tag", "pool"):
            own = Tag(labels(keys)) if task == "tag" else Pool("mean")
            return Encoder(config.text_embedding, encoder, own, config.text_context)
        case EncoderDecoder(decoder=Stack() as decoder):
            kind, start, end = keys.values["model_type"], None, None
            if kind == "mbart":  # texts end with their language, with which the reader begins
                end = keys.get("eos_token_id", int, 2)
            else:
                start = keys.get("decoder_start_token_id", int, *STARTS.get(kind, ()))
            if task == "classify":
                head = replace(_classify(keys, "last", Dense("tanh")), end=end)
            else:
                head = _answer(keys, None)
            return replace(
                config,
                decoder=DecoderReader(replace(decoder, causal=True), start),
                head=head,
                context=min(context, config.text_context),
                encoder_context=None,
            )
        case Decoder(stack=stack):
            stack = replace(stack, causal=causal)
            return Encoder(embedding, stack, _last_token(keys, task, embedding), context)
        case _:
            return config


def _last_token(keys: Keys, task: str, embedding: Embedding) -> ReadingHead:
    """Return the head for a task of a decoder that reads whole texts. The last token's vector represents a
    text.
    """
    projection = embedding.projection
    dense = None if projection is None else Dense(None, bias=False, width=projection.width)
    match task:
        case "classify":
            return _classify(keys, "last", dense, bias=False)
        case "tag":
            return Tag(labels(keys), dense)
        case "answer":
            return _answer(keys, dense)
        case _:
            return Pool("last", dense)
