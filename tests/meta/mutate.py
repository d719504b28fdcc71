"""Do the tests notice? Plants one small bug at a time in a copy of the tree and runs what should see it.

    python tests/meta/mutate.py --seed 1 --count 60 [--jobs 2] [--only refimpl/ops]

Draws mutations of operators, comparisons, constants, axes, arguments (two swapped, a keyword dropped)
and branches over refimpl/ops, export/ops and export/targets. Prints the seed, how many were killed,
and each survivor with its line: kill it by a test, or argue that it changes nothing.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("refimpl", "runtime", "export", "cli")
LAWS = ["by_hand", "oracles", "oracles_quant", "onnx_cases", "laws", "laws_model", "laws_encoder"]
LAWS = [f"tests/refimpl/test_{name}.py" for name in LAWS]
MIRROR = ["tests/export/ops/test_mirror.py", "-k", "not test_graph"]
MODEL = ["tests/export/ops/test_model.py", "tests/export/ops/test_encoder.py"]
TARGETS = ["tests/export/targets/test_targets.py", "tests/export/graph/test_trace.py"]
WHOLE = ["tests/export/test_end_to_end_text.py", "tests/export/quantization/test_int8_static.py"]
# Where a mutation stands -> what should see it, the quickest first.
RUNS: dict[str, list[list[str]]] = {
    "refimpl/ops": [LAWS, MIRROR, MODEL],
    "export/ops": [MIRROR, MODEL, ["tests/export/ops/test_mirror.py", "-k", "test_graph"]],
    "export/targets": [TARGETS, WHOLE],
}
TIMEOUT = 600
# Whose arguments may stand in any order.
EITHER = ("max", "min", "np.maximum", "np.minimum", "torch.maximum", "torch.minimum")

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One change of one file, as the whole new source."""

    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.before}  ->  {self.after}"


def changes(node: ast.AST, draw: random.Random) -> Iterator[Callable[[ast.AST], ast.AST]]:
    """What may be done to a node: functions that change its copy in place."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield lambda n: _set(n, "op", SWAPS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield lambda n: _set(n, "ops", [SWAPS[type(op)]()])
        case ast.Constant(value=bool() as v):
            yield lambda n: _set(n, "value", not v)
        case ast.Constant(value=int() | float() as v):
            step = draw.choice((-1, 1)) if isinstance(v, int) or v >= 1 else v
            yield lambda n: _set(n, "value", v + step)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield lambda n: operand
        case ast.IfExp():
            yield lambda n: _set(_set(n, "body", n.orelse), "orelse", node.body)
    if isinstance(node, ast.Call):
        whole = not any(isinstance(a, ast.Starred) for a in node.args)
        if len(node.args) > 1 and whole and ast.unparse(node.func) not in EITHER:
            i = draw.randrange(len(node.args) - 1)
            yield lambda n: _set(n, "args", [*n.args[:i], n.args[i + 1], n.args[i], *n.args[i + 2 :]])
        if node.keywords:
            k = draw.randrange(len(node.keywords))
            yield lambda n: _set(n, "keywords", [*n.keywords[:k], *n.keywords[k + 1 :]])


def _set(node: ast.AST, field: str, value: object) -> ast.AST:
    setattr(node, field, value)
    return node


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that compute something: no docstring, annotation, decorator, error message or name list."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            named = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"
            typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if isinstance(child, ast.AST) and not (
                named or typing or isinstance(child, ast.Raise | ast.Assert)
            ):
                yield child
                yield from places(child)


def mutations(file: Path, draw: random.Random) -> Iterator[Mutation]:
    """All mutations of a file."""
    tree = ast.parse(file.read_text())
    where = str(file.relative_to(ROOT))
    for i, node in enumerate(places(tree)):
        for change in changes(node, draw):
            mutant = copy.deepcopy(tree)
            target = list(places(mutant))[i]
            before = ast.unparse(target)
            made = change(target)
            if made is not target:
                _replace(mutant, target, copy.deepcopy(made))
            after = ast.unparse(made)
            if after != before:
                line = getattr(node, "lineno", 0)
                yield Mutation(where, line, before[:90], after[:90], ast.unparse(mutant))


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(v is old for v in value):
                setattr(parent, field, [new if v is old else v for v in value])


def drawn(seed: int, count: int, only: str) -> list[Mutation]:
    """`count` mutations of the folders in RUNS, by a seeded draw."""
    draw = random.Random(seed)
    files = [f for folder in RUNS if folder.startswith(only) for f in sorted((ROOT / folder).glob("*.py"))]
    found = [m for f in files for m in mutations(f, draw)]
    return draw.sample(found, min(count, len(found)))


def copied(into: Path) -> None:
    """The tree as a package `tfm` of its own, with its tests beside it."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, into / "tfm" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", into / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", into)


def run(tree: Path, arguments: list[str]) -> bool:
    """Whether these tests pass in a copy of the tree."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode == 5 and "-k" in arguments:  # functions of Config have neither laws nor drawn values
        return True
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"pytest did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def outcome(mutation: Mutation) -> str:
    """What became of a mutation; a loop without end is no survivor, but nor has a test said so."""
    folder = next(f for f in RUNS if mutation.file.startswith(f))
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        (Path(name) / "tfm" / mutation.file).write_text(mutation.source)
        try:
            alive = all(run(Path(name), arguments) for arguments in [*near(mutation), *RUNS[folder]])
        except subprocess.TimeoutExpired:
            return "TIMED OUT"
    return "SURVIVED" if alive else "killed"


def near(mutation: Mutation) -> list[list[str]]:
    """The laws and values of the functions beside the mutation: they see most, in a tenth of the time."""
    if mutation.file.startswith("export/targets"):
        return []
    body = ast.parse((ROOT / mutation.file).read_text()).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    inside = [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef) and node.lineno <= mutation.line <= (node.end_lineno or 0)
    ]
    wanted = inside if inside and inside[0] in names else names
    select = f"({' or '.join(wanted)}) and not test_graph"
    return (
        [["tests/refimpl/laws/test_laws.py", "tests/export/ops/test_mirror.py", "-k", select]]
        if wanted
        else []
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant bugs and see whether the tests notice.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="a folder, such as refimpl/ops")
    given = parser.parse_args()
    chosen = drawn(given.seed, given.count, given.only)
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        code = "import tfm.refimpl as r; print(r.__file__)"
        place = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": name},
            capture_output=True,
            text=True,
        )
        if not place.stdout.startswith(name):
            raise SystemExit(f"the tests would import {place.stdout.strip()}, not the copy in {name}")
    others = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for mutation, found in zip(chosen, pool.map(outcome, chosen), strict=True):
            line = f"{found:9} {mutation}"
            print(line, flush=True)
            others += [line] if found != "killed" else []
    print(f"seed {given.seed}: {len(chosen) - len(others)} of {len(chosen)} killed, the others:")
    print(*others, sep="\n")


if __name__ == "__main__":
    main()
