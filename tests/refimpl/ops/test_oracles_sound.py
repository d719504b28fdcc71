"""Spectrograms and the stem that reads them, against torch and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.engine.sound import features
from tfm.refimpl.ops.conv_stem import conv_stem
from tfm.refimpl.ops.log_mel import hann_window, mel_filters, mel_frequencies, power_spectrum
from transformers import WhisperFeatureExtractor, audio_utils

SOUNDS = {
    "noise": lambda rng, n: 0.1 * rng.standard_normal(n),
    "tone": lambda rng, n: np.sin(2 * np.pi * 440 * np.arange(n) / 16_000),
    "silence": lambda rng, n: np.zeros(n),
    "sweep": lambda rng, n: 0.5 * np.sin(np.arange(n) ** 2 / n) + 1e-3 * rng.standard_normal(n),
    "click": lambda rng, n: np.eye(1, n, n // 3)[0],
}


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([1, 2, 3, 5]), st.sampled_from([4, 10]))
def test_log_mel_is_torchs_spectrum(seed: int, count: int, hop: int, size: int):
    """|torch.stft|², whose last window Whisper leaves out."""
    sound = np.random.default_rng(seed).standard_normal((2, hop * count + size))
    window = torch.hann_window(size, dtype=torch.float64)
    equal(hann_window(np.arange(size, dtype=np.float64)), window.numpy())
    theirs = torch.stft(torch.from_numpy(sound), size, hop, window=window, return_complex=True)
    got = power_spectrum(sound, window.numpy(), hop=hop)
    equal(got, theirs[..., :-1].abs().square().mT.numpy())


@pytest.mark.parametrize("bands", [80, 128])
def test_log_mel_is_transformers_filters(bands: int):
    theirs = audio_utils.mel_filter_bank(201, bands, 0.0, 8000.0, 16_000, "slaney", "slaney")
    edges = mel_frequencies(np.linspace(0, audio_utils.hertz_to_mel(8000.0, "slaney"), bands + 2))
    equal(mel_filters(np.linspace(0, 8000, 201), edges), theirs)


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize(("bands", "samples"), [(80, 480_000), (128, 31_937), (80, 1), (80, 500_123)])
def test_log_mel_is_whispers(kind: str, bands: int, samples: int):
    """To 1e-6 of its extractor's own formula in float64, and of what it gives in float32; silence follows a
    sound up to 30 s, and a longer one is read whole, up to its last hop."""
    sound = SOUNDS[kind](np.random.default_rng(samples), samples).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=bands)
    padded = np.pad(sound, (0, max(0, 480_000 - samples)))
    exact: Any = extractor._np_extract_fbank_features(padded[None].astype(np.float64), "cpu")[0].T
    got = features(sound, bands=bands)
    assert got.dtype == np.float32
    assert got.shape == exact.shape == (max(3000, samples // 160), bands)
    assert np.abs(got - exact).max() <= 1e-6


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_conv_stem_is_torchs(seed: int, pairs: int):
    first = randomize(torch.nn.Conv1d(5, 7, 3, padding=1), seed)
    second = randomize(torch.nn.Conv1d(7, 7, 3, stride=2, padding=1), seed + 1)
    frames = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 2 * pairs, 5)))
    gelu = torch.nn.functional.gelu
    expected = gelu(second(gelu(first(frames.mT)))).mT.detach().numpy()
    leaves: Any = {}
    for name, conv in (("conv1", first), ("conv2", second)):
        leaves[name] = conv.weight.detach().numpy().transpose(2, 1, 0).reshape(-1, 7)
        leaves[f"{name}_bias"] = conv.bias.detach().numpy()
    equal(conv_stem(frames.numpy(), leaves), expected)
