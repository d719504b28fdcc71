"""Buffers that a checkpoint may store although they follow from the Config: frequencies, positions, masks.

A stored buffer must equal the value that tfm computes. If stored rotary frequencies differ, `loader.Leaves`
adds a note instead of raising an error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...config import XIELU, Config, Learned, LongRope, Plain, Sinusoidal
from ...ops.mask import causal_mask
from ...ops.position import rope_frequencies, sinusoidal
from ...ops.position_tables import position_tables


def _inv_freq(config: Config) -> np.ndarray:
    """Return the rotary frequencies of the first layer with rotary positions, as the angles at position 1."""
    if not config.ropes:
        return np.zeros(0)
    cos, sin = position_tables(np.array([1]), config=config)[config.ropes[0]]
    return np.arctan2(sin, cos)[0]


def _rope_freqs(config: Config) -> np.ndarray:
    """Return the divisors that turn plain rotary frequencies into scaled frequencies. GGUF stores a position
    scaling in this form.
    """
    if not config.ropes:
        return np.zeros(0)
    rope = config.ropes[0]
    pairs = np.arange(rope.dims // 2)
    return rope_frequencies(pairs, theta=rope.theta) / _inv_freq(config)


def _waves(config: Config) -> np.ndarray:
    """Return the table of sinusoidal positions, which older checkpoints of Marian, Pegasus and M2M100 store.

    In M2M100's table, the row before the first position is for padding and contains zeros.
    """
    positions = [*config.stacks.values()][-1].positions
    if not isinstance(positions, Sinusoidal):
        return np.zeros(0)
    frequencies = rope_frequencies(np.arange(config.embedding.width // 2), theta=positions.theta)
    table = sinusoidal(np.arange(positions.offset + config.context)[None], frequencies)[0]
    if positions.offset:
        table[positions.offset - 1] = 0
    return table


def _wave_rows(config: Config) -> int:
    positions = [*config.stacks.values()][-1].positions
    return config.context + (positions.offset if isinstance(positions, Sinusoidal) else 0)


def _rotary_waves(config: Config) -> np.ndarray:
    """Return the sines and cosines of the first layer's rotation at every position. RoFormer stores them as a
    table.
    """
    if not config.ropes:
        return np.zeros(0)
    rope = config.ropes[0]
    frequencies = rope_frequencies(np.arange(rope.dims // 2), theta=rope.theta)
    return sinusoidal(np.arange(config.context)[None], frequencies)[0]


def _rotary_dims(config: Config) -> int:
    return config.ropes[0].dims if config.ropes else 0


def _position_rows(config: Config) -> int:
    stack = next(iter(config.stacks.values()))
    return stack.positions.offset + stack.positions.size if isinstance(stack.positions, Learned) else 0


def _divisors(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return LongRoPE's short and long divisors. The two arrays are empty if no layer uses LongRoPE."""
    scalings = [rope.scaling for rope in config.ropes if isinstance(rope.scaling, LongRope)]
    return (
        (np.array(scalings[0].short), np.array(scalings[0].long)) if scalings else (np.zeros(0), np.zeros(0))
    )


COMPUTED = {
    "inv_freq": _inv_freq,
    "rope_freqs": _rope_freqs,
    "short_divisors": lambda config: _divisors(config)[0],
    "long_divisors": lambda config: _divisors(config)[1],
    "waves": _waves,
    "rotary_waves": _rotary_waves,
    # The rows of the table of positions, which older checkpoints store beside it.
    "position_ids": lambda config: np.arange(_position_rows(config))[None],
}
LARGE: dict[str, Callable[[Config], tuple[int, ...]]] = {
    "waves": lambda config: (_wave_rows(config), config.embedding.width),
    "rotary_waves": lambda config: (config.context, _rotary_dims(config)),
    "position_ids": lambda config: (1, _position_rows(config)),
}


def _fade(config: Config, got: np.ndarray) -> bool:
    """Return whether `got` equals the decay rates of the heads of some layer (MiniMax). The tables of powers
    of these rates, which MiniMax also stores, aren't read.
    """
    mixers = [mixer for stack in config.stacks.values() for mixer in stack.mixers]
    rates = (getattr(mixer, "slope_rate", ()) for mixer in mixers)
    return any(got.size == len(own) and np.allclose(got.reshape(-1), own, rtol=1e-2) for own in rates)


def _causal(config: Config, got: np.ndarray) -> bool:
    """Return whether `got` equals the causal mask of some layer. GPT-2, GPT-NeoX and GPT-Neo store the mask
    in each layer.
    """
    at = np.arange(config.context)
    windows = {a.window for stack in config.stacks.values() for a in stack.attentions}
    return got.shape == (1, 1, len(at), len(at)) and any(
        np.array_equal(got[0, 0], causal_mask(at[None], at, window=window)[0]) for window in windows
    )


def _masked_score(config: Config, got: np.ndarray) -> bool:
    """Return whether `got` is a single score for masked positions: any number up to −10⁴, since the softmax
    of such a score is practically 0.
    """
    return got.size == 1 and got.item() <= -1e4


def _xielu_beta(config: Config, got: np.ndarray) -> bool:
    """Return whether `got` is the slope at 0 of an xIELU in the Config, which is a constant of the
    activation.
    """
    mlps = (layer.mlp for stack in config.stacks.values() for layer in stack.layers)
    betas = {m.activation.beta for m in mlps if isinstance(m, Plain) and isinstance(m.activation, XIELU)}
    return got.size == 1 and got.item() in betas


def _xielu_eps(config: Config, got: np.ndarray) -> bool:
    """Return whether `got` is eps, the upper bound of the input to xIELU's exponential, within the precision
    of bfloat16.
    """
    return got.size == 1 and abs(got.item() / XIELU.eps - 1) < 2**-8


SETTINGS = ("multipliers", "primes", "offsets")


def setting(config: Config, name: str) -> np.ndarray | None:
    """Return the whole numbers of a layer's setting, such as decoder.layers.0.attn.primes of a memory of
    n-grams. Return None if the layer has no such setting.
    """
    match name.split("."):
        case [stack, "layers", i, "attn", key] if key in SETTINGS:
            stated = getattr(config.stacks[stack].layers[int(i)].attention, key, None)
            return None if stated is None else np.array(stated, np.int64)
    return None


PLAIN = {
    "causal": _causal,
    "slope_rate": _fade,
    "masked_score": _masked_score,
    "xielu_beta": _xielu_beta,
    "xielu_eps": _xielu_eps,
}
