"""Compute the probability of speech in each 32 ms of a sound, with Silero's voice activity detection on ONNX
Runtime.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from ...refimpl.engine.sound import RATE
from ..hub.locate import fetch
from ..hub.model_names import VOICE
from ..progress import Progress, silent
from .session import open_session, options

CHUNK, BEFORE = 512, 64  # samples that are judged, and those before them that are read once more


class Voice:
    """Computes the probability that somebody speaks in a chunk of a sound. The chunks of a sound must be
    given in order.

    A chunk has CHUNK samples. The last chunk of a sound may have fewer. The model, a wheel of 11 MB, is
    downloaded once. Source: https://github.com/snakers4/silero-vad, version 6 (MIT).
    """

    def __init__(self, progress: Progress = silent) -> None:
        self._session: ort.InferenceSession = open_session(fetch(VOICE, progress), "cpu", options(1))
        self._state = np.zeros((2, 1, 128), np.float32)
        self._before = np.zeros(BEFORE)

    def __call__(self, samples: np.ndarray) -> float:
        whole = np.concatenate([self._before, samples, np.zeros(CHUNK - len(samples))])
        self._before = whole[-BEFORE:]
        given = {
            "input": whole[None].astype(np.float32),
            "state": self._state,
            "sr": np.array(RATE, np.int64),
        }
        found, self._state = self._session.run(None, given)
        return float(np.asarray(found)[0, 0])
