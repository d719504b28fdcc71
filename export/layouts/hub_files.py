"""Write the JSON files that libraries expect beside a model from the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.config import (
    LM,
    Classify,
    EncoderDecoder,
    MaskedLM,
    Pool,
    Tag,
)
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent
from ...refimpl.engine.sound import HOP, RATE, WINDOW
from ...runtime.bundle.bundle import Bundle
from ...runtime.text.tokenizer import Tokenizer
from . import decoder_graph, encoder_decoder_graph

ARCHITECTURES = {
    Pool: "BertModel",
    MaskedLM: "BertForMaskedLM",
    Tag: "BertForTokenClassification",
    Classify: "BertForSequenceClassification",
}
PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
# Options of a Sampler and of a search that have another name there.
OPTIONS = {
    "no_repeat_ngram": "no_repeat_ngram_size",
    "encoder_no_repeat_ngram": "encoder_no_repeat_ngram_size",
    "bad_words": "bad_words_ids",
    "forced_last": "forced_eos_token_id",
    "beams": "num_beams",
    "renormalize": "renormalize_logits",
}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pad_id(bundle: Bundle) -> int:
    """Return the id of the token that fills up the rows of a batch: the first end token, or 0 if the model
    has no end token.
    """
    return next(iter(bundle.generation.eos), 0)


def tokenizer_config(bundle: Bundle) -> dict[str, Any] | None:
    """Return the content of tokenizer_config.json: special tokens and chat template. Returns None if the
    bundle has no tokenizer.

    The file names the tokenizer class that uses any tokenizer.json unchanged. For a speech model, it names
    Whisper's class.
    """
    if bundle.tokenizer is None:
        return None
    tokenizer = Tokenizer(bundle.tokenizer, bundle.config.embedding.vocabulary)
    generation = bundle.generation
    ids = {"bos_token": generation.bos, "eos_token": next(iter(generation.eos), None)}
    ids |= {"pad_token": pad_id(bundle), "mask_token": generation.mask}
    types = bundle.config.embedding.token_types is not None
    tokens = {name: tokenizer.id_to_token(id) for name, id in ids.items()}
    longest = config.text_context if isinstance(config := bundle.config, EncoderDecoder) else config.context
    stated = {"chat_template": _templates(bundle), "model_max_length": longest}
    hears = config.sound_shape is not None
    return {
        # Whisper's class alone knows what its timestamps mean.
        "tokenizer_class": "WhisperTokenizer" if hears else "PreTrainedTokenizerFast",
        # What generates appends a token to each row, so the rows of a batch end together.
        "padding_side": "left" if "decoder" in bundle.config.stacks else "right",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"][:: 1 if types else 2],
        "clean_up_tokenization_spaces": False,  # tokenizer.json does what is to be done
        **{name: value for name, value in (tokens | stated).items() if value},
    }


def _templates(bundle: Bundle) -> str | list[dict[str, str]] | None:
    """Return the chat template. If the bundle has another template for tools, return a list of both with
    their names.
    """
    if bundle.chat_template is None or bundle.tool_use_template is None:
        return bundle.chat_template
    templates = {"default": bundle.chat_template, "tool_use": bundle.tool_use_template}
    return [{"name": name, "template": text} for name, text in templates.items()]


def config(bundle: Bundle) -> dict[str, Any]:
    """Return the content of config.json: sizes, special tokens and labels.

    The field `model_type` chooses the class that runs the graph. The model's own computation is in the graph.
    So there is one type for all decoders, one for all encoders, and one for all decoders that read an
    encoder. The type for decoders is Gemma's. For Gemma, every library accepts a stated head size, and no
    library passes positions to the graph. The type for decoders with states is Falcon-H1's. For Falcon-H1,
    transformers.js accepts keys, values and two states in each layer, and each of them may be missing.
    """
    config, generation = bundle.config, bundle.generation
    if isinstance(config, EncoderDecoder) and isinstance(config.head, LM):
        return _reader(bundle, config)
    (stack, *_) = config.stacks.values()
    stated: dict[str, Any] = {
        "hidden_size": config.embedding.width,
        "num_hidden_layers": len(stack.layers),
        "max_position_embeddings": config.context,
        "vocab_size": config.embedding.vocabulary,
        "pad_token_id": pad_id(bundle),
    }
    if isinstance(config.head, LM):
        heads, kv_heads, size = decoder_graph.heads(config)
        sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": size}
        ids = {"bos_token_id": generation.bos, "eos_token_id": list(generation.eos) or None}
        names = {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}
        if recurrent(cache_kinds(config)):
            names = {"model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"]}
        return names | stated | sizes | ids
    attention: Any = stack.layers[0].attention
    stated["num_attention_heads"] = attention.heads
    names = {"model_type": "bert", "architectures": [ARCHITECTURES[type(config.head)]]}
    stated["type_vocab_size"] = config.embedding.token_types or 1
    if bundle.labels:
        stated |= {"id2label": dict(enumerate(bundle.labels))}
        stated |= {"label2id": {label: i for i, label in enumerate(bundle.labels)}}
    if isinstance(config.head, Classify):
        stated["problem_type"] = PROBLEMS[config.head.kind]
    return names | stated


def _reader(bundle: Bundle, config: EncoderDecoder) -> dict[str, Any]:
    """Return the content of config.json for a decoder that reads an encoder. A model that reads audio is
    described as a Whisper, any other model as a T5. The stated sizes are the cache's sizes.
    """
    kv_heads, size = encoder_decoder_graph.heads(config)
    generation, encoder = bundle.generation, config.stacks["encoder"]
    stated: dict[str, Any] = {
        "is_encoder_decoder": True,
        "d_model": kv_heads * size,  # optimum divides it by the heads
        "vocab_size": config.embedding.vocabulary,
        "pad_token_id": pad_id(bundle),
        "eos_token_id": list(generation.eos) or None,
        "decoder_start_token_id": generation.start,
    }
    if config.sound_shape is not None:
        frames, bands = config.sound_shape
        return stated | {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "num_mel_bins": bands,
            "max_source_positions": frames // 2,
            "max_target_positions": config.context,
            "encoder_layers": len(encoder.layers),
            "decoder_layers": len(config.layers),
            # Both are sizes of the cache, as runtimes take them.
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), kv_heads),
        }
    stated |= {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_kv": size,
        "num_heads": kv_heads,
        "num_layers": len(encoder.layers),
        "num_decoder_layers": len(config.layers),
    }
    tasks = {name: {"prefix": task.prefix, **_options(task)} for name, task in generation.tasks.items()}
    return stated | {"prefix": generation.prefix or None, "task_specific_params": tasks or None}


def _options(generation: Generation) -> dict[str, Any]:
    """Return the options for choosing tokens, with the names that generation_config.json gives them."""
    stated = generation.defaults | generation.search | {"max_new_tokens": generation.max_new_tokens}
    options = {OPTIONS.get(name, name): value for name, value in stated.items()}
    if first := options.pop("forced_tokens", ()):
        (options["forced_bos_token_id"],) = first
    options["do_sample"] = options.get("temperature") is not None
    return {name: value for name, value in options.items() if value not in (None, [])}


def generation_config(bundle: Bundle) -> dict[str, Any]:
    """Return the content of generation_config.json: the special tokens, and the checkpoint's own sampling
    options.
    """
    generation = bundle.generation
    ids = {
        "bos_token_id": generation.bos,
        "eos_token_id": list(generation.eos),
        "pad_token_id": pad_id(bundle),
        "decoder_start_token_id": generation.start,
    }
    speech = _speech(generation, bundle.config.context) if bundle.config.sound_shape is not None else {}
    found = ids | _options(generation) | speech
    return {name: value for name, value in found.items() if value not in (None, [])}


def _speech(generation: Generation, context: int) -> dict[str, Any]:
    """Return the entries of generation_config.json that only a speech model has."""
    most, speech = generation.max_new_tokens, generation.speech
    if most is not None and speech is None:
        most += 1  # the first token of a decoder counts there, but no token of a Whisper's prompt does
    # With a prompt, max_new_tokens may be more than the decoder has room for.
    stated: dict[str, Any] = {"max_new_tokens": None, "max_length": most or context}
    if len(generation.eos) == 1:
        (stated["eos_token_id"],) = generation.eos  # Whisper's rules take no list
    if speech is None:
        return stated
    stated |= {
        "no_timestamps_token_id": speech.no_timestamps,
        "prev_sot_token_id": speech.previous,
        "max_initial_timestamp_index": speech.latest_first,
        "alignment_heads": [list(one) for one in speech.alignment_heads],
        "language": speech.language,
        "task": speech.task,
        "is_multilingual": bool(speech.languages),
    }
    if speech.languages:
        stated["lang_to_id"] = {f"<|{code}|>": id for code, id in speech.languages.items()}
        stated["task_to_id"] = speech.tasks
    return stated


def preprocessor_config(frames: tuple[int, int]) -> dict[str, Any]:
    """Return the content of preprocessor_config.json: how audio is converted to the encoder's input
    (`engine.sound.features`).
    """
    size, bands = frames
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": bands,
        "sampling_rate": RATE,
        "hop_length": HOP,
        "n_fft": WINDOW,
        "chunk_length": size * HOP // RATE,
        "n_samples": size * HOP,
        "nb_max_frames": size,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }


def write(bundle: Bundle, folder: Path, more: dict[str, Any]) -> None:
    """Write config.json, with the additional fields in `more`, and the files for the tokenizer, generation
    and audio that the model needs.
    """
    write_json(folder / "config.json", config(bundle) | more)
    if (tokenizer := tokenizer_config(bundle)) is not None:
        write_json(folder / "tokenizer_config.json", tokenizer)
    if isinstance(bundle.config.head, LM):
        write_json(folder / "generation_config.json", generation_config(bundle))
    if bundle.config.sound_shape is not None:
        write_json(folder / "preprocessor_config.json", preprocessor_config(bundle.config.sound_shape))
