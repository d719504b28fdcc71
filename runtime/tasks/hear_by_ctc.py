"""Transcribe a sound with a CTC head: take the likeliest token of each position, without a decoder.

A sound of any length is split into windows of as many positions as the model takes. Each window is normalized
by itself. The windows overlap, and predictions too near to a window's ends are left out. So every position is
predicted with enough sound before and after it. transformers' pipeline does the same with `chunk_length_s`.

    window 0   ├────────────────────┊┄┄┤                      ┄ is left out
    window 1                     ├┄┄┊──────────────┊┄┄┤
    window 2                                    ├┄┄┊──────────────┤
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...refimpl.checkpoint.tokenizers.auto_tokenizer.clean_up import REPLACEMENTS
from ...refimpl.config import WaveStem
from ...refimpl.decoding.ctc import CTCTokens, Heard, heard_words, runs, said_together
from ...refimpl.decoding.logprobs import log_softmax
from ...refimpl.decoding.speech import compression_ratio
from ...refimpl.engine.sound import HOP, RATE, normalized, windows
from ...refimpl.errors import CheckpointError, LimitError
from ..progress import Progress
from ..sound_files import Blocks
from ..text.subtitles import Segment, Word
from .base import TaskModel

# Seconds of the silence that ends a segment, and how long one may be.
PAUSE, LONGEST = 0.5, 10.0
BESIDE = 10  # a window's share that is left out at each end, if that is enough: a tenth


def heard_segments(
    model: TaskModel, blocks: Blocks, total: int, progress: Progress, *, words: bool, first: int = 0
) -> Iterator[Segment]:
    """Yield the segments of a sound of about `total` samples, each as soon as the pause after it has been
    read.

    The sound may be a part of a longer sound. Then `first` is the index of the part's first sample in the
    longer sound. Raises CheckpointError if the model's files don't say which token is the blank. Raises
    LimitError for a context that is too short for overlapping windows.
    """
    tokens, stem = model.generation.ctc, model.config.stem
    if tokens is None:
        raise CheckpointError(
            "the model has no list of tokens: vocab.json must be in the folder of the model's weights"
        )
    assert isinstance(stem, WaveStem)
    pause, longest = (max(1, int(seconds * RATE) // stem.stride) for seconds in (PAUSE, LONGEST))
    context, size = model.config.context, model.config.context * stem.stride
    # A window's last positions reach beyond its samples: the next one has them.
    beside = max(context // BESIDE, context - stem.positions(size))
    if context <= 2 * beside:
        raise LimitError(f"the model's context must be at least {2 * beside + 1} positions, got {context}")
    likeliest, sure = np.zeros(0, np.int64), np.zeros(0)  # of the positions from the sample `first` on
    follows = False
    for window in windows(blocks(), size, beside * stem.stride):
        progress("listening", window.begin // HOP, total // HOP)
        if len(window.samples) >= stem.least(1):
            sound = normalized(window.samples) if tokens.normalized else window.samples
            logprobs = log_softmax(model.engine.predict(sound[None].astype(np.float32))[0])
            kept = logprobs[window.before // stem.stride : window.end // stem.stride]
            likeliest, sure = np.append(likeliest, kept.argmax(-1)), np.append(sure, kept.max(-1))
        found = runs(likeliest.tolist(), tokens.blank)
        heard = heard_words(found, tokens.delimiter, longest, follows=follows)
        together, gone, follows = [*said_together(heard, pause, longest)], len(likeliest), False
        if not window.last and together and len(likeliest) - together[-1][-1].end < pause:
            goes_on = together.pop()[0]
            gone, follows = goes_on.begin, goes_on.follows
        for said in together:
            yield _segment(model, tokens, stem, said, sure, first, words=words)
        likeliest, sure, first = likeliest[gone:], sure[gone:], first + gone * stem.stride
    progress("listening", total // HOP, total // HOP)


def _segment(
    model: TaskModel,
    tokens: CTCTokens,
    stem: WaveStem,
    said: Sequence[Heard],
    sure: np.ndarray,
    first: int,
    *,
    words: bool,
) -> Segment:
    """Return a segment of the words that were said together. Position 0 is at the sample `first`.

    `sure` has the log-probability of the likeliest token of each position.
    """

    def text(of: Heard) -> str:
        spelled = "".join(map(model.text.id_to_token, of.tokens))
        return ("" if of.follows else " ") + (spelled.lower() if tokens.lower else spelled)

    def seconds(position: int) -> float:
        return (first + position * stem.stride) / RATE

    whole = "".join(map(text, said))
    begin, end = said[0].begin, said[-1].end
    ids = [id for word in said for id in word.tokens]
    return Segment(
        seconds(begin),
        seconds(end),
        cleaned(whole) if tokens.cleaned else whole,
        ids,
        None,
        float(sure[begin:end].mean()),
        compression_ratio(ids, model.config.embedding.vocabulary),
        0.0,
        words=tuple(Word(seconds(one.begin), seconds(one.end), text(one)) for one in said) if words else (),
        seek=(first + begin * stem.stride) // HOP,
    )


def cleaned(text: str) -> str:
    """Return the text without spaces before English punctuation, as transformers' clean-up does."""
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    return text
