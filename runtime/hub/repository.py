"""Fetch a model from a repository of the Hugging Face hub without running any of the repository's code.

The hub's own client lists the repository's files. The client downloads each file, or finds the file in its
own cache. tfm checks sizes and hashes.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...refimpl.checkpoint.formats.model_directory import Directory
from ...refimpl.checkpoint.formats.tensor_source import CTRANSLATE2, TORCH_FILE
from ...refimpl.checkpoint.licence import LARGEST, is_notice
from ...refimpl.errors import CheckpointError, TfmError
from ..progress import Progress
from .cache_dir import require_room
from .download import CONFIG, USUAL, beside_usual, model_in, own_folder, require_plain
from .partial import GOES_ON, TransferError, begin_with, cause_of, fetch, keep_only, size_of, stage_of

VOCABULARIES = ("merges.txt", "vocab.txt", "*.model")  # of tokenizers without tokenizer.json


def from_hub(
    repository: str,
    revision: str | None,
    choice: str | None,
    partial: Path,
    into: Path,
    progress: Progress,
    compare: Callable[[Mapping[str, str]], None] = lambda _: None,
    fetched: Iterable[Path] = (),
) -> tuple[str, str, dict[str, str]]:
    """Fetch a model from the repository `ORG/NAME` of the Hugging Face hub into the new folder `into`.

    Returns the model's path in the folder, the commit, and a dict from the name of each file to its hash.

    - `choice`: which of the repository's models is fetched, as in `model_in`. Without a choice, the default
      among several GGUF models is USUAL.
    - `partial`: the folder in which received files stay until all files are complete.
    - `compare`: a function that gets the hashes that the hub states, before any file is fetched. The
      function raises an error if these hashes aren't allowed.
    - `fetched`: folders that may already contain some of the files.

    Raises TransferError if the model can't be fetched, and CheckpointError or ConfigError if tfm refuses
    the model.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when the client is imported
    try:
        import huggingface_hub as client
        from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise CheckpointError(f"hf:{repository} needs the hub's client: pip install 'tfm-cli[hub]'") from None
    progress(f"fetching {repository} from the hub", 0, 0)
    try:
        return _fetched(client, repository, revision, choice, partial, into, progress, compare, [*fetched])
    except TfmError:
        raise
    except GatedRepoError:
        page = f"{client.HfApi().endpoint}/{repository}"
        raise TransferError(
            f"hf:{repository} is gated: accept its licence at {page}, set HF_TOKEN or run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise TransferError(
            f"hf:{repository} doesn't exist or is private: check the name, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise TransferError(
            f"hf:{repository} has no revision {revision!r:.80}: check the part after @"
        ) from None
    except Exception as error:  # the client's own, and those of the HTTP library that its version uses
        raise TransferError(f"hf:{repository} can't be fetched: {_reason(error)}") from None


def _fetched(
    client: Any, repository: str, revision: str | None, choice: str | None, partial: Path, into: Path,
    progress: Progress, compare: Callable[[Mapping[str, str]], None], fetched: Sequence[Path],
) -> tuple[str, str, dict[str, str]]:  # fmt: skip
    info = client.HfApi().model_info(repository, revision=revision, files_metadata=True)
    files, where = {file.rfilename: file for file in info.siblings or []}, f"hf:{repository}"
    sizes = {name: file.size or 0 for name, file in files.items()}
    if choice is None and (others := beside_usual(sizes)):
        choice = USUAL
        progress(
            f"{where} has {len(others) + 1} models, and tfm uses {USUAL}; to use another model, add its "
            f"name, such as {where}:{others[0]}",
            0,
            0,
        )
    (model, parts), commit = model_in(sizes, where, choice), str(info.sha)
    notices = [name for name in sizes if is_notice(name) and sizes[name] <= LARGEST]
    wanted = _wanted(model, parts, sizes, notices)
    for name in (commit, *wanted):
        require_plain(name, where)
    hashes = {name: str(_digest(files[name])) for name in wanted if name not in notices}
    compare(hashes)
    folder = keep_only(partial, commit)
    for name in wanted:
        own = client.try_to_load_from_cache(repository, name, revision=commit)
        places = [*([Path(own)] if isinstance(own, str) else []), *(place / name for place in fetched)]
        begin_with(folder / name, places, _digest(files[name]))
    come = {name: size_of(folder / name) for name in wanted}
    there = sum(come.values())
    total = sum(sizes[name] for name in wanted) - there
    require_room(partial, total)
    stage = stage_of(repository, total, there)
    progress(stage, 0, total)
    config, converted = (str(PurePosixPath(model) / name) for name in (CONFIG, CTRANSLATE2))
    config = "" if converted in wanted else config  # CTranslate2's names no model
    for name in wanted:

        def report(size: int, name: str = name) -> None:
            come[name] = size
            progress(stage, max(0, sum(come.values()) - there), total)

        url, file = client.hf_hub_url(repository, name, revision=commit), files[name]
        digest = _digest(file)
        fetch(url, folder / name, file.size, digest, client.utils.build_hf_headers(), report)
        if name == config:
            _require_known(folder / model, f"{where}/{name}")
    into.rmdir()
    shutil.move(folder, into)
    for name in notices:  # they lie at the top of a repository, its model perhaps in a folder
        if not (target := own_folder(into, model) / name).exists():
            (into / name).rename(target)
    return model, commit, hashes


def _reason(error: Exception) -> str:
    """Return a line that says why the client failed, and what the user can do."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 429:
        return f"the hub got too many requests (429): wait some minutes, or set HF_TOKEN; {GOES_ON}"
    if status == 404:
        return f"the hub lists a file that it doesn't have (404): try again later; {GOES_ON}"
    if status >= 500:
        return f"the hub failed to answer (HTTP status {status}): try again later; {GOES_ON}"
    return f"{cause_of(error)}; does this machine have a network? {GOES_ON}"


def _digest(file: Any) -> str | None:
    """Return the hash that the hub states for a file: a sha256, or the shorter hash that git gives the
    file.
    """
    return file.lfs.sha256 if file.lfs else file.blob_id


def _wanted(model: str, parts: list[str], names: Iterable[str], notices: list[str]) -> list[str]:
    """Return the names of a model's files to fetch. config.json comes first, so that an unknown model is
    refused before the rest arrives.
    """
    if model.endswith(".gguf"):
        return [name for name in names if name in (*parts, *notices)]
    place = PurePosixPath(model)
    patterns = [str(place / name) for name in ("*.json", "*.jinja", *VOCABULARIES)]
    patterns += _preferred_weights(place, names) + notices
    wanted = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return sorted(wanted, key=lambda name: name != str(place / CONFIG))


def _require_known(directory: Path, where: str) -> None:
    """Raise ConfigError if config.json describes a model that tfm can't read. This avoids a download of
    gigabytes.
    """
    # Other downloads don't need these, which import the families.
    from ...refimpl.checkpoint.config_readers.keys import Keys
    from ...refimpl.checkpoint.families import identify

    identify(Keys(Directory(directory).object(CONFIG) or {}, where))


def _preferred_weights(model: PurePosixPath, names: Iterable[str]) -> list[str]:
    """Return the names of a model's weight files: safetensors if there are any. Many repositories contain the
    weights twice.
    """
    beside = [path for path in map(PurePosixPath, names) if path.parent == model]
    safetensors = [str(path) for path in beside if path.suffix == ".safetensors"]
    of_torch = [str(path) for path in beside if TORCH_FILE.fullmatch(path.name)]
    return safetensors or of_torch or [str(path) for path in beside if path.name == CTRANSLATE2]
