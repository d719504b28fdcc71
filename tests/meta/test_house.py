"""What tests/meta/house.py counts goes up by one where one more is planted."""

from __future__ import annotations

from pathlib import Path

import house
import pytest

TOLD = '''
def block_sums(x, size):
    """The sums of blocks."""
    total = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        if len(part) == size:
            total.append(sum(part) * 2.0)
    return total
'''
WEIGHTS = "class W(TypedDict):\n" + "".join(f'    w{n}: Float[Array, "D F"]\n' for n in "abcde")
# What is planted: file -> text; then which numbers change, and by how much.
SENTENCES = """
raises(E, match="key must be 7")
raises(E, match="key.*7")
result.failed(2, f"no {thing} of this name")
with refused(E, "key", 7): ...
@mark.parametrize(("given", "message"), [(1, "the first one"), param(2, "second"), (3, "the third one")])
def test(given, message):
    with refused(E, given), raises(E, match=message): ...
@mark.parametrize("message", ["another table"])
async def test_again(message):
    raises(E, match=message)
"""
PLANTED = {
    "twins": (
        {"cli/a.py": TOLD, "cli/b.py": TOLD.replace("total", "sums")},
        {"pairs of twins in sources": 1},
    ),
    "no twins": ({"cli/a.py": TOLD, "cli/b.py": TOLD.replace("* 2.0", "if part[0] > 1 else len(x)")}, {}),
    "walk": (
        {"export/w.py": "class Walk:\n    def f(self):\n        block(1)\n", "runtime/u.py": "Walk().f()\n"},
        {"forward passes": 2},
    ),
    "one telling": (
        {"refimpl/ops/model.py": "block(1)\n", "refimpl/ops/encoder.py": "encoder_block(1)\n"},
        {"forward passes": 1},
    ),
    "line": (
        {
            "refimpl/ops/a.py": "y = one + two + 3\nx = y\n",
            "export/ops/b.py": "if x:\n y = one + two + 3\n x = y\n",
        },
        {"lines of export/ops that are in refimpl/ops": 1, "lines of export/ops": 3},
    ),
    "mixer": (
        {"cli/a.py": "Mamba2\n", "cli/b.py": "NoMamba2\n"},
        {"source files that name Mamba2": 1},
    ),
    "isinstance": (
        {"refimpl/x/block.py": "isinstance(a, B)\n"},
        {"isinstance in validate, shapes, smooth, block, inspect, operator_limits": 1},
    ),
    "shapes": (
        {
            "refimpl/ops/w.py": WEIGHTS,
            "cli/s.py": '"""wa D,F wb D,F wc D,F wd D,F we D,F"""\n',
            "cli/t.py": 's = {"wa": (1,), "wb": (1,), "wc": (1,), "wd": (1,)}\ns["we"] = (2,)\n',
        },
        {"places that state the shapes of weights": 3},
    ),
    "calls": (
        {"cli/a.py": "parameter_shapes(c)\nsmooth.smoothing_sites(c)\ndef gguf_config(keys): ...\n"},
        {"calls of parameter_shapes": 1, "calls of smoothing_sites": 1, "functions gguf_config": 1},
    ),
    "sampling": (
        {
            "cli/a.py": "class A:\n    top_k: int\ndef f(top_k=1, top_p=2): ...\ndef g(top_k): ...\n",
            "cli/b.py": "TopK = Annotated[int, 1]\nf(top_k=top_k)\nf(top_k=3)\n",
            "cli/c.py": 'RANGES = {"top_k": (1, 2)}\nVALUES = {"top_k": 3}\n',
        },
        {"declarations of a sampling option": 5},
    ),
    "sentences": (
        {"tests/a.py": SENTENCES},
        {"assertions of errors that quote prose": 5},
    ),
}  # fmt: skip
LINES = ("lines of sources", "lines of tests", "lines of export/ops")


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_counted(planted: str, tmp_path: Path):
    texts, wanted = PLANTED[planted]
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    counted = {what: count for what, count in house.counts(tmp_path).items() if count}
    made = {what: count for what, count in counted.items() if what not in LINES or what in wanted}
    assert made == wanted


def test_every_line_counts(tmp_path: Path):
    for path in ("cli/a.py", "runtime/kernels/a.cpp", "runtime/kernels/a.txt", "tests/a.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("a\n\nb\n")
    counted = house.counts(tmp_path)
    assert (counted["lines of sources"], counted["lines of tests"]) == (6, 3)
