"""Sampling: a partition equals a full sort, filters are transformers', draws have their probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tfm.refimpl.decoding.filters import candidates, typical
from tfm.refimpl.decoding.options import LARGEST_FLOAT
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.sampling import draw as draw_index
from tfm.refimpl.decoding.sampling import process_logits, sample
from tfm.refimpl.errors import LimitError, NumericError
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

many = settings(max_examples=4 * settings.default.max_examples)  # pyright: ignore[reportOptionalOperand]
seeds = st.integers(0, 2**32 - 1)
samplers = st.builds(
    Sampler,
    temperature=st.sampled_from((0.05, 0.7, 1.0, 3.0)),
    top_k=st.one_of(st.none(), st.integers(1, 50), st.integers(200, 700)),
    top_p=st.one_of(st.none(), st.floats(0.01, 1.0), st.sampled_from((0.9, 0.999, 1.0))),
    min_p=st.one_of(st.none(), st.floats(0.001, 1.0)),
    typical_p=st.one_of(st.none(), st.none(), st.floats(0.01, 0.999)),
)
sizes = st.one_of(st.integers(1, 40), st.integers(200, 700), st.just(5000))


def draw(seed: int, n: int, ties: bool = False) -> np.ndarray:
    logits = (np.random.default_rng(seed).standard_normal(n) * 3).astype(np.float32)
    return np.round(logits) if ties else logits


def sorted_law(logits: np.ndarray, sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """All logits sorted, then filtered step by step, as the docstring of `candidates` has it."""
    ids = np.argsort(-logits, kind="stable")
    scaled = logits[ids].astype(np.float64) / (sampler.temperature or 1)
    p = np.exp(scaled - scaled[0])
    p /= p.sum()
    if sampler.top_k is not None:
        ids, p = ids[: sampler.top_k], p[: sampler.top_k]
        p = p / p.sum()
    if sampler.top_p is not None:
        before = np.cumsum(p) - p
        kept = before < sampler.top_p - 1e-12
        ids, p = ids[kept], p[kept]
    if sampler.min_p is not None:
        kept = p >= sampler.min_p * p[0]
        ids, p = ids[kept], p[kept]
    if sampler.typical_p is not None:
        p = p / p.sum()
        off = np.abs(-np.log(p) - -(p * np.log(p)).sum())
        order = np.argsort(off, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        kept = np.sort(order[before < sampler.typical_p - 1e-12])
        ids, p = ids[kept], p[kept]
    return ids, p / p.sum()


@many
@given(seeds, sizes, samplers, st.booleans())
@example(0, 300, Sampler(1.0, min_p=1.0), True)
@example(0, 300, Sampler(1.0, top_p=1.0), True)
@example(0, 5000, Sampler(3.0, top_p=0.999), False)
def test_a_partition_is_a_full_sort(seed: int, n: int, sampler: Sampler, ties: bool):
    logits = draw(seed, n, ties)
    ids, p = candidates(logits, sampler)
    wanted, shares = sorted_law(logits, sampler)
    assert ids.tolist() == wanted.tolist()
    equal(p, shares, 1e-12)
    equal(p.sum(), 1.0, 1e-12)


@many
@given(seeds, st.integers(1, 60), samplers)
def test_filters_are_transformers(seed: int, n: int, sampler: Sampler):
    """Temperature, top-k, top-p, min-p, typical in their order: the same tokens and probabilities."""
    logits = draw(seed, n)
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    steps = [
        TemperatureLogitsWarper(sampler.temperature),
        TopKLogitsWarper(sampler.top_k) if sampler.top_k else None,
        TopPLogitsWarper(sampler.top_p) if sampler.top_p else None,
        MinPLogitsWarper(sampler.min_p) if sampler.min_p else None,
        TypicalLogitsWarper(sampler.typical_p) if sampler.typical_p else None,
    ]
    for step in steps:
        if step is not None:
            scores = step(torch.zeros(1, 1, dtype=torch.int64), scores)
    wanted = torch.softmax(scores[0], -1).numpy()
    ids, p = candidates(logits, sampler)
    found = np.zeros(n)
    found[ids] = p
    equal(found, wanted, 1e-9)


@many
@example(0, 412, Sampler(1.0, top_k=412), [0.9375])
@given(seeds, sizes, samplers, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5))
def test_a_draw_is_the_stretch_that_holds_u(seed: int, n: int, sampler: Sampler, us: list[float]):
    """Exactly the distribution: u uniform gives each token its probability, whatever was left unsorted."""
    logits = draw(seed, n)
    ids, p = sorted_law(logits, sampler)
    ends = np.cumsum(p)
    for u in us:
        # An end of a stretch is rounded: there either neighbour is right.
        right = {int(ids[min(int((ends <= e).sum()), len(ids) - 1)]) for e in (u - 1e-9, u, u + 1e-9)}
        assert sample(logits, sampler, u) in right
    for i in np.flatnonzero(p > 1e-9)[:3]:
        assert sample(logits, sampler, float(ends[i] - p[i] / 2)) == ids[i]
    assert sample(logits, sampler, 1 - 2**-53) in ids


@given(seeds, st.integers(1, 50))
def test_greedy_is_the_largest_and_the_first_of_equals(seed: int, n: int):
    logits = draw(seed, n, True)
    assert sample(logits, Sampler(), 0.7) == int(np.argsort(-logits, kind="stable")[0])
    assert Sampler().greedy
    assert not Sampler(temperature=1.0).greedy


def test_min_p_keeps_what_is_as_likely_as_its_bound():
    logits = np.log(np.array([0.5, 0.25, 0.25, 0.5, 0.125], np.float32))
    assert candidates(logits, Sampler(1.0, min_p=1.0))[0].tolist() == [0, 3]


def test_typical_by_hand():
    """The entropy is 1.75 bits: a surprise of two bits is nearest, then one bit, then three."""
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert typical(p, 0.25).tolist() == [1]
    assert typical(p, 0.26).tolist() == [1, 0]
    assert typical(p, 0.75).tolist() == [1, 0]
    assert typical(p, 0.76).tolist() == [1, 0, 2]
    assert typical(p, 1.0).tolist() == [1, 0, 2, 3]
    # Of equal ones, which are all as near, as many as it takes: more than are sorted at first.
    assert typical(np.full(5000, 1 / 5000), 0.5).tolist() == [*range(2500)]
    ids, shares = candidates(np.log(p), Sampler(1.0, typical_p=0.7))
    assert ids.tolist() == [0, 1]
    equal(shares, [2 / 3, 1 / 3])


@given(seeds, sizes, samplers, st.integers(1, 9))
def test_what_is_banned_is_never_drawn(seed: int, n: int, sampler: Sampler, left: int):
    logits, rng = draw(seed, n), np.random.default_rng(seed)
    allowed = rng.permutation(n)[:left]
    banned = np.full(n, -np.inf, np.float32)
    banned[allowed] = logits[allowed]
    ids, p = candidates(banned, sampler)
    wanted, shares = sorted_law(logits[np.sort(allowed)], sampler)
    assert ids.tolist() == np.sort(allowed)[wanted].tolist()
    equal(p, shares, 1e-12)


def test_where_a_number_falls():
    p = np.array([0.25, 0.0, 0.5, 0.2, 0.0])
    drawn = [draw_index(p, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9499, 0.95, 1 - 2**-53)]
    assert drawn == [0, 0, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_temperatures_at_their_ends(temperature: float):
    """Next to none is greedy, next to infinite is even."""
    ids, p = candidates(np.array([1.0, 3.0, 2.0], np.float32), Sampler(temperature=temperature))
    assert ids[0] == 1
    equal(p[:3], [1.0, 0.0, 0.0][: len(p)] if temperature < 1 else [1 / 3] * 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("options", "likeliest"),
    [
        ({"repetition_penalty": LARGEST_FLOAT}, 3),
        ({"repetition_penalty": 5e-324}, 1),
        ({"presence_penalty": LARGEST_FLOAT, "frequency_penalty": LARGEST_FLOAT}, 3),
        ({"presence_penalty": -LARGEST_FLOAT, "frequency_penalty": -LARGEST_FLOAT}, 0),
        ({"logit_bias": ((2, LARGEST_FLOAT), (2, LARGEST_FLOAT)), "presence_penalty": LARGEST_FLOAT}, 3),
        ({"logit_bias": ((3, -LARGEST_FLOAT), (1, LARGEST_FLOAT)), "repetition_penalty": 1e300}, 1),
    ],
)
def test_no_option_is_too_large_for_a_logit(options: dict[str, Any], likeliest: int, dtype: type):
    """NumPy says nothing (a warning is an error here), a probability is a number, and nothing is banned."""
    logits, seen = np.array([0.0, 3.0, -3.0, 2.0], dtype), np.array([0, 1, 2, 2])
    adjusted = process_logits(logits, Sampler(**options), seen, new_tokens=4)
    assert adjusted.dtype == dtype
    assert np.isfinite(adjusted).all()
    assert adjusted.argmax() == likeliest
    for temperature in (5e-324, 1.0, LARGEST_FLOAT):
        sampler = Sampler(temperature=temperature, **options)
        ids, p = candidates(adjusted, sampler)
        equal(p.sum(), 1.0)
        assert dict(zip(ids.tolist(), p.tolist(), strict=True))[likeliest] == p.max()
        assert sample(adjusted, sampler, 0.5) in ids


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_must_be_finite(bad: float):
    with refused(NumericError, "logits", "finite", "NaN"):
        process_logits(np.array([0.0, bad], np.float32), Sampler(), np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0), ("temperature", -1.0), ("temperature", np.inf), ("temperature", np.nan),
        ("top_k", 0), ("top_k", 1.5), ("top_k", 50.0), ("top_k", True),
        ("repetition_penalty", 10**400), ("presence_penalty", -(10**400)), ("logit_bias", ((1, 10**400),)),
        ("top_p", 0.0), ("top_p", 1.01), ("top_p", np.nan),
        ("min_p", 0.0), ("min_p", 2.0),
        ("typical_p", 0.0), ("typical_p", 1.01),
        ("repetition_penalty", 0.0), ("repetition_penalty", np.inf),
        ("presence_penalty", np.nan), ("frequency_penalty", -np.inf),
        ("no_repeat_ngram", 0), ("no_repeat_ngram", 2.5), ("min_new_tokens", -1), ("min_new_tokens", np.inf),
        ("suppress_tokens", (1, -1)), ("forced_tokens", (0.5,)),
        ("logit_bias", ((1, np.nan),)), ("logit_bias", ((-1, 1.0),)),
    ],
)  # fmt: skip
def test_options_outside_their_range_are_refused(name: str, value: float):
    with pytest.raises(LimitError, match=f"^{name} .*, got "):
        Sampler(**{name: value})


def test_whole_numbers_count_as_numbers():
    """One of 300 digits is a float, as no array holds it otherwise."""
    made = Sampler(temperature=10**300, top_k=np.int64(2), repetition_penalty=10**30)
    assert np.isfinite(process_logits(np.ones(3, np.float32), made, np.array([1]))).all()
    assert len(candidates(np.ones(3, np.float32), made)[0]) == 2
