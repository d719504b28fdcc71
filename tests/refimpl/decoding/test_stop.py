"""When a text ends: stop strings are found however a text is streamed, stop tokens come before the length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.stop import finish_reason, split_at_stop_string


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.data())
def test_streamed_text_is_split_alike(text: str, stops: list[str], data: st.DataObject) -> None:
    positions = [at for stop in stops if (at := text.find(stop)) >= 0]
    want = text[: min(positions)] if positions else text
    emitted, held_back = "", ""
    rest = text
    while rest:
        n = data.draw(st.integers(1, len(rest)), label="chunk")
        certain, held_back, stopped = split_at_stop_string(held_back + rest[:n], stops)
        emitted, rest = emitted + certain, rest[n:]
        if stopped:
            assert emitted == want
            return
        assert held_back == "" or any(stop.startswith(held_back) for stop in stops)
    assert emitted + held_back == want


def test_why_a_text_ends() -> None:
    assert finish_reason(5, 1, {5}, 3) == "stop"
    assert finish_reason(5, 3, {5}, 3) == "stop"  # a stop token comes before the length
    assert finish_reason(4, 3, {5}, 3) == "length"
    assert finish_reason(4, 2, {5}, 3) is None
