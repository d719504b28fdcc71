"""Read sentence encoders: the files that the sentence-transformers library writes beside config.json.

modules.json lists the steps from a text to its vector; each step has its own folder (Reimers & Gurevych
2019). The supported steps are an encoder, a pooling, any number of Dense modules and an optional
normalization. Any other step, and any option that would change the vectors, raises an error that names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..config import Activation, Config, Dense, Pool, Pooling
from ..errors import CheckpointError
from .config_readers.keys import Keys
from .formats.model_directory import ENCODERS, Directory
from .formats.named_tensors import Tensors, joined, prefixed
from .formats.tensor_source import TensorSource, shards

POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean", "max": "max", "lasttoken": "last"}
# The older spelling: a key for each way, of which one is true.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
ACTIVATIONS: dict[str, Activation | None] = {
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Mish": "mish",
}
PLAIN_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@dataclass(frozen=True)
class Sentence:
    """What a sentence-transformers directory adds to an encoder: a pooling head and a limit on the text's
    length.

    `width` is the width of vectors that the pooling expects. `longest` is the longest text in tokens. `where`
    is the file that states these facts, for errors. `projections` are the weights of the Dense modules, in
    order.
    """

    head: Pool
    width: int
    longest: int | None
    where: str
    projections: tuple[TensorSource, ...] = ()

    def with_projections(self, source: TensorSource) -> TensorSource:
        """Return the encoder's tensors together with the tensors of the Dense modules, named `Dense.0.…`,
        `Dense.1.…`
        """
        modules = [Tensors(prefixed(file, f"Dense.{p}.")) for p, file in enumerate(self.projections)]
        return Tensors(joined([source, *modules])) if modules else source

    def of(self, config: Config) -> Config:
        """Return the encoder's Config with the pooling head and the limit on the text's length."""
        if config.embedding.width != self.width:
            raise CheckpointError(
                f"{self.where}: the pooling's width must be the model's ({config.embedding.width}), "
                f"got {self.width}"
            )
        context = config.context if self.longest is None else min(config.context, self.longest)
        cuts = config.head.cuts if isinstance(config.head, Pool) else ()
        return replace(config, head=replace(self.head, cuts=cuts), context=context)


def read_sentence(directory: Directory) -> Sentence | None:
    """Read modules.json and the files that it names. Return None for a directory without modules.json.

    Raises CheckpointError or ConfigError for unknown steps, poolings and options.
    """
    modules, path = directory.value("modules.json"), directory.path
    if modules is None:
        return None
    steps = _steps(modules, where := str(path / "modules.json"))

    def keys(*names: str, folder: str = "", need: bool = False) -> Keys:
        """Return the keys of the first file that exists, or no keys if no file exists."""
        for name in names:
            if (values := directory.object(name, folder)) is not None:
                return Keys(values, str(path / folder / name))
        if need:
            raise CheckpointError(
                f"{path / folder / names[0]} is missing, but modules.json lists the folder {folder!r:.80}"
            )
        return Keys({}, str(path / folder / names[0]))

    longest = _transformer(keys(*ENCODERS))
    _whole(keys("config_sentence_transformers.json"))
    pooling, width = _pooling(keys("config.json", folder=steps[1].folder, need=True))
    projections, sources, entry = [], [], width
    for step in steps[2:]:
        if step.name == "Dense":
            projections.append(_dense(keys("config.json", folder=step.folder, need=True), entry))
            sources.append(Tensors(joined(shards(directory, step.folder))))
            entry = projections[-1].width
        else:
            _of_sentences(keys("config.json", folder=step.folder))
    unit = steps[-1].name == "Normalize"
    head = Pool(pooling, unit=unit, projections=tuple(projections))
    return Sentence(head, width, longest, where, tuple(sources))


class Step(NamedTuple):
    """One module that modules.json lists: the name of its class, and the folder of its files."""

    name: str
    folder: str


def _steps(modules: Any, where: str) -> list[Step]:
    """Return the steps that modules.json lists, in order. Raises CheckpointError for steps that tfm doesn't
    support.
    """
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{where}: must be a list of objects, got {modules!r:.80}")
    steps: list[Step] = []
    for module in modules:
        keys = Keys(module, where)
        match = re.fullmatch(r"sentence_transformers\.(?:\w+\.)*(\w+)", keys.get("type", str))
        if match is None or match[1] not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise keys.fail("type", "Transformer, Pooling, Dense or Normalize of sentence_transformers")
        steps.append(Step(match[1], keys.get("path", str)))
        keys.get("name", str, None)
        keys.get("idx", int, None)
        if keys.get("kwargs", list, []):
            raise keys.fail("kwargs", "empty")
        keys.finish({})
    names = [step.name for step in steps]
    if re.fullmatch("Transformer Pooling( Dense)*( Normalize)?", " ".join(names)) is None:
        raise CheckpointError(
            f"{where}: the steps must be Transformer, Pooling, optionally Dense, and optionally Normalize, "
            f"got {names!r:.99}"
        )
    if steps[0].folder or not all(step.folder for step in steps[1:]):
        raise CheckpointError(f"{where}: path must be empty for Transformer and a folder for other steps")
    if len({step.folder for step in steps}) < len(steps):
        raise CheckpointError(f"{where}: each step must have a folder of its own, got {names!r:.200}")
    return steps


def _transformer(keys: Keys) -> int | None:
    """Return the length of the longest text in tokens, or None if the file states no limit."""
    if keys.get("do_lower_case", bool, False):
        raise keys.fail("do_lower_case", "false: the tokenizer's own files state whether it lowers capitals")
    keys.choice("transformer_task", {"feature-extraction": None}, "feature-extraction")
    keys.choice("module_output_name", {"token_embeddings": None}, "token_embeddings")
    if keys.get("modality_config", dict, PLAIN_TEXT) != PLAIN_TEXT:
        raise keys.fail("modality_config", f"{PLAIN_TEXT}")
    longest = keys.size("max_seq_length", None)
    keys.finish({"unpad_inputs": (None, False, True)})
    return longest


def _whole(keys: Keys) -> None:
    """Check the library's settings for the whole model, such as its version and its prompts."""
    keys.choice("model_type", {"SentenceTransformer": None}, "SentenceTransformer")
    for key in ("__version__", "prompts"):
        keys.get(key, dict, None)
    if keys.get("default_prompt_name", str, None) is not None:
        raise keys.fail("default_prompt_name", "null: no prompt is put before texts")
    keys.get("similarity_fn_name", str, None)
    keys.finish({})


def _pooling(keys: Keys) -> tuple[Pooling, int]:
    width = keys.size("embedding_dimension", None) or keys.size("word_embedding_dimension")
    set_flags = [key for key in FLAGS if keys.get(key, bool, False)]
    keys.get("include_prompt", bool, True)
    if "pooling_mode" in keys:
        if set_flags:
            raise keys.fail(set_flags[0], "absent if pooling_mode is present")
        pooling = keys.choice("pooling_mode", POOLINGS)
    else:
        if keys.get("pooling_mode_mean_tokens", bool, True) and "pooling_mode_mean_tokens" not in keys:
            set_flags.append("pooling_mode_mean_tokens")  # the library's default
        if len(set_flags) != 1 or FLAGS[set_flags[0]] not in POOLINGS:
            supported = [key for key, name in FLAGS.items() if name in POOLINGS]
            raise CheckpointError(
                f"{keys.where}: exactly one of {', '.join(supported)} must be true, got {set_flags or 'none'}"
            )
        pooling = POOLINGS[FLAGS[set_flags[0]]]
    keys.finish({})
    return pooling, width


def _dense(keys: Keys, width: int) -> Dense:
    """Read a Dense module. Raises an error unless its input has `width` elements."""
    if keys.size("in_features") != width:
        raise keys.fail("in_features", f"the output width of the step before ({width})")
    dense = Dense(
        keys.choice("activation_function", ACTIVATIONS),
        bias=keys.get("bias", bool, True),
        width=keys.size("out_features"),
    )
    _of_sentences(keys)
    return dense


def _of_sentences(keys: Keys) -> None:
    """Check that a module's input and output is the vector of a text, and finish reading its keys."""
    for key in ("module_input_name", "module_output_name"):
        keys.choice(key, {"sentence_embedding": None}, "sentence_embedding")
    keys.finish({})
