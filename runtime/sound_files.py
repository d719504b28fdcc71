"""Read sound files in any format that libsndfile supports, as blocks of samples at 16,000 per second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..refimpl.engine.sound import RATE
from ..refimpl.errors import ConfigError, LimitError

if TYPE_CHECKING:
    from soundfile import SoundFile

BLOCK = 30 * RATE  # samples that are read at a time
RATES = range(1000, 768_001)
CHANNELS = 64
UNKNOWN = 2**31 - 2**16  # bytes that a WAV file says it has where its writer couldn't know
LAST_PAGE = 2**17  # bytes of an Ogg file in which its last page begins, which has 65,307 at most
LOUDEST = 1e6  # a sample is from −1 to 1; floats of files may be somewhat beyond

Blocks = Callable[[], Iterable[np.ndarray]]


def samples_of(sound: Path | str | np.ndarray) -> Blocks:
    """Return a function that yields the samples of a sound file, or of an array [N], in blocks.

    Each call of the function begins at the first sample. Channels are averaged, and other sampling rates are
    resampled by soxr to 16,000 samples per second. Raises LimitError, possibly while blocks are read, for a
    file that isn't a sound, for a sound without samples, for samples that aren't finite, and for a file that
    is shorter than its header says.
    """
    if isinstance(sound, np.ndarray):
        _expect_floats(sound)
        _expect_samples(len(sound), "the sound")
        _check(sound, 0, "the sound")
        return lambda: (sound[i : i + BLOCK] for i in range(0, len(sound), BLOCK))
    path = Path(sound)
    with _opened(path) as file:
        _expect_samples(file.frames, str(path))
    return lambda: _resampled(path)


def sample_count(sound: Path | str | np.ndarray) -> int:
    """Return the number of samples of a sound at 16,000 per second: from a file's header, or from an array
    [N].

    Resampling may give one sample more or less. Raises LimitError for a file that isn't a sound.
    """
    if isinstance(sound, np.ndarray):
        return len(sound)
    with _opened(Path(sound)) as file:
        return file.frames * RATE // file.samplerate


def _expect_samples(count: int, where: str) -> None:
    if count < 1:
        raise LimitError(f"{where}: must have samples, got none")


def checked(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks of samples unchanged; raise LimitError for values that aren't samples."""
    at = 0
    for block in blocks:
        _expect_floats(block)
        _check(block, at, "the sound")
        at += len(block)
        yield block


def _expect_floats(sound: np.ndarray) -> None:
    if sound.ndim != 1 or sound.dtype.kind != "f":
        raise LimitError(
            f"a sound must be an array [N] of floats from -1 to 1, {RATE} samples per second, got "
            f"{sound.dtype} {list(sound.shape)}"
        )


def _check(block: np.ndarray, at: int, where: str) -> None:
    sound = np.abs(block) <= LOUDEST
    if not sound.all():
        i = int(np.argmin(sound.reshape(len(block), -1).all(1)))
        raise LimitError(
            f"{where}: samples must be finite and from -1 to 1, but sample {at + i} is {block[i]}"
        )


def _opened(path: Path) -> SoundFile:
    try:
        import soundfile
        import soxr  # noqa: F401  (both are missing or none)
    except ModuleNotFoundError as error:
        raise ConfigError(f"sounds need {error.name}: pip install 'tfm-cli[audio]'") from None
    except OSError as error:
        raise ConfigError(
            f"reading sounds needs the library libsndfile, which can't be loaded: {error}"
        ) from None
    try:
        with open(path, "rb") as readable:
            readable.read(1)
        file: Any = soundfile.SoundFile(path)
        # It would seek behind each block that it has read, after which an MP3 decoder has lost what the next
        # frames build on.
        file.seekable = lambda: False
    except OSError as error:
        raise LimitError(f"{path}: can't be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise LimitError(f"{path}: must be a wav, flac, ogg or mp3 file: {error.error_string}") from None
    if file.samplerate not in RATES or file.channels > CHANNELS:
        file.close()
        raise LimitError(
            f"{path}: a sound must have {RATES.start} to {RATES.stop - 1} samples a second and at most "
            f"{CHANNELS} channels, got {file.samplerate} and {file.channels}"
        )
    _expect_whole(file.format, file.extra_info, path)
    return file


def _expect_whole(format: str, log: str, path: Path) -> None:
    """Raise LimitError for a WAV or Ogg file that was cut off. libsndfile reads the rest of such a file
    silently.
    """
    if format == "OGG":
        with open(path, "rb") as opened:
            opened.seek(-min(LAST_PAGE, path.stat().st_size), 2)
            tail = opened.read(LAST_PAGE)
        page = tail[tail.rfind(b"OggS") :]
        size = (
            27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else 27
        )  # header, table, packets
        if len(page) < size or not page[5] & 4:  # the flag of a stream's last page
            raise LimitError(f"{path}: the last page of the stream is missing: the file was truncated")
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)$", log, re.M)
    if cut is not None and int(cut[2]) < int(cut[1]) < UNKNOWN:
        raise LimitError(
            f"{path}: the header states {cut[1]} bytes of samples, but the file ends after {cut[2]} bytes"
        )


def _resampled(path: Path) -> Iterator[np.ndarray]:
    """Yield a file's samples, averaged over its channels and resampled to 16,000 per second."""
    import soxr

    with _opened(path) as file:
        rate = file.samplerate
        stream = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, dtype="float64")
        for block in _blocks(file, path):
            yield block if stream is None else stream.resample_chunk(block)
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0), last=True)


def _blocks(file: SoundFile, path: Path) -> Iterator[np.ndarray]:
    import soundfile

    count = 0
    while True:
        try:
            block = file.read(BLOCK, dtype="float64", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise LimitError(f"{path}: is damaged after sample {count}: {error.error_string}") from None
        if not len(block):
            break
        _check(block, count, str(path))
        count += len(block)
        yield block.mean(1)
    if count < file.frames:
        raise LimitError(
            f"{path}: the header states {file.frames} samples, but the file ends after {count} samples"
        )
