"""Plants one small bug at a time in a copy of the tree and runs the tests that should notice it.

    python tests/meta/mutate.py --seed 1 --count 60 [--jobs 2] [--only refimpl/ops export/ops]
        [--files ssd gated_delta] [--near | --outside]

Mutations change operators, comparisons, constants, axes, arguments (two swapped, a keyword dropped) and
branches. They are drawn over the folders in `RUNS`, or those that `--only` names, and there over all files or
those that `--files` names. The tests that should see them must pass before the first bug is planted. With
`--outside` mutations are those of composites, and their judges only the comparisons with others' code and
with the plain model that `branches.json` names for the mutated function. With `--near` they are those of ops,
in both bodies, and their judges these comparisons and the laws and values of the ops of the mutated file.
Prints the seed, how many mutations were killed, and each survivor with its line: add a test that kills it, or
show that it changes nothing.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType

import branches
import pytest
from tfm.export.torch_bodies import TORCH

ROOT = Path(__file__).parents[2]
FOLDERS = ("refimpl", "runtime", "export", "cli")
OPS = [
    *(f"tests/refimpl/ops/test_{name}.py" for name in ("by_hand", "oracles", "oracles_quant", "onnx_cases")),
    *(f"tests/refimpl/laws/test_{name}.py" for name in ("laws", "model", "encoder")),
]
OPENING = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests/refimpl/checkpoint").glob("test_*.py"))
MIRROR = ["tests/export/ops/test_mirror.py", "-k", "not test_graph"]
MODEL = ["tests/export/ops/test_model.py", "tests/export/ops/test_encoder.py"]
GRAPHS = ["tests/export/ops/test_mirror.py", "-k", "test_graph"]
TARGETS = ["tests/export/targets/test_targets.py", "tests/export/graph/test_build.py"]
END_TO_END = ["tests/export/test_end_to_end_text.py", "tests/export/quantization/test_int8_static.py"]
# Folder -> the tests that should see a mutation there, the quickest first.
RUNS: dict[str, list[list[str]]] = {
    "refimpl/ops": [OPS, MIRROR, MODEL],
    "refimpl/decoding": [["tests/refimpl/decoding"], ["tests/runtime/tasks"]],
    "refimpl/checkpoint/tokenizers": [
        ["tests/refimpl/checkpoint/tokenizers"],
        ["tests/runtime/text"],
        ["tests/refimpl/checkpoint/families"],
    ],
    "refimpl/checkpoint/weights": [
        ["tests/refimpl/checkpoint/weights"],
        OPENING,
        ["tests/refimpl/checkpoint/families"],
    ],
    "refimpl/checkpoint/families": [
        ["tests/refimpl/checkpoint/config_readers"],
        ["tests/refimpl/checkpoint/families"],
        OPENING,
    ],
    "export/ops": [MIRROR, MODEL, GRAPHS],
    "export/targets": [TARGETS, END_TO_END],
    "runtime": [["tests/runtime"], ["tests/cli"], ["tests/export"]],
    "runtime/bundle": [["tests/runtime/bundle"], ["tests/export/test_bundle_writer.py"], ["tests/runtime"]],
    "runtime/hub": [["tests/runtime/hub"], ["tests/cli"]],
    "runtime/ort": [["tests/runtime/ort"], ["tests/runtime/tasks"], END_TO_END],
    "runtime/tasks": [["tests/runtime/tasks"], ["tests/cli"]],
    "runtime/text": [["tests/runtime/text"], ["tests/runtime/tasks"]],
    "runtime/verification": [
        ["tests/runtime/verification"],
        ["tests/export/test_bundle_writer.py"],
        ["tests/export"],
    ],
}
BODIES = ("refimpl/ops", "export/ops")
QUIET = ("-q", "-x", "-n", "0", "-p", "no:cacheprovider")
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
    """One change of one file."""

    file: str
    line: int
    before: str
    after: str
    tree: ast.AST
    place: int
    changed: ast.AST

    @property
    def source(self) -> str:
        """The whole new source of the file."""
        mutant = copy.deepcopy(self.tree)
        _replace(mutant, list(places(mutant))[self.place], self.changed)
        return ast.unparse(mutant)

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
        no_star = not any(isinstance(a, ast.Starred) for a in node.args)
        if len(node.args) > 1 and no_star and ast.unparse(node.func) not in EITHER:
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
    reshapes = isinstance(tree, ast.Call) and getattr(tree.func, "attr", None) == "reshape"
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
                if not (reshapes and isinstance(child, ast.UnaryOp)):  # any negative number is -1 there
                    yield from places(child)


def mutations(file: Path, draw: random.Random) -> Iterator[Mutation]:
    """All mutations of a file."""
    tree = ast.parse(file.read_text())
    where = str(file.relative_to(ROOT))
    for i, node in enumerate(places(tree)):
        for change in changes(node, draw):
            changed = change(copy.deepcopy(node))
            before, after = ast.unparse(node), ast.unparse(changed)
            if after != before:
                line = getattr(node, "lineno", 0)
                yield Mutation(where, line, before[:90], after[:90], tree, i, changed)


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(v is old for v in value):
                setattr(parent, field, [new if v is old else v for v in value])


def drawn(
    seed: int, count: int, folders: Sequence[str], names: Sequence[str] = (), *, functions: bool = False
) -> list[Mutation]:
    """`count` mutations of the files in these folders, or of those with these names, by a seeded draw.

    With `functions` of their functions alone, without classes and what is outside of both.
    """
    draw = random.Random(seed)
    files = {f for folder in folders for f in (ROOT / folder).rglob("*.py") if not names or f.stem in names}
    everything = [m for f in sorted(files) for m in mutations(f, draw)]
    if functions:
        everything = [m for m in everything if function_of(m) is not None]
    return draw.sample(everything, min(count, len(everything)))


@cache
def functions_of(file: str) -> list[ast.FunctionDef]:
    """The functions of a module, without those inside of classes and functions."""
    return [node for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]


def function_of(mutation: Mutation) -> str | None:
    """The function of the module in whose body a mutation is, None in a class or outside of both."""
    spans = ((node.name, node.body[0].lineno, node.end_lineno or 0) for node in functions_of(mutation.file))
    return next((name for name, first, last in spans if first <= mutation.line <= last), None)


def room(file: str) -> str:
    """The folder of RUNS that a file lies in: the longest that fits."""
    return max((folder for folder in RUNS if file.startswith(f"{folder}/")), key=len)


def copied(into: Path) -> None:
    """The tree as a package `tfm` of its own, with its tests beside it."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, into / "tfm" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli" / "tfm" / "__init__.py", into / "tfm")
    shutil.copytree(ROOT / "tests", into / "tests", ignore=shutil.ignore_patterns("__pycache__", "typings"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, into)


def run(tree: Path, arguments: list[str]) -> bool:
    """Whether these tests pass in a copy of the tree."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", *QUIET, *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode == 5 and "-k" in arguments:  # functions of Config have neither laws nor drawn values
        return True
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"pytest did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


Judges = Callable[[Mutation], list[list[str]]]


def outcome(mutation: Mutation, *, judges: Judges) -> str:
    """ "killed" if a test failed, "SURVIVED" if all passed, "TIMED OUT" if they never ended."""
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        (Path(name) / "tfm" / mutation.file).write_text(mutation.source)
        try:
            alive = all(run(Path(name), tests) for tests in judges(mutation))
        except subprocess.TimeoutExpired:
            return "TIMED OUT"
    return "SURVIVED" if alive else "killed"


def passes(tests: list[str]) -> bool:
    """Whether these tests pass here, those that a name selects also if there are none."""
    return pytest.main([*QUIET, *tests]) in ((0, 5) if "-k" in tests else (0,))


def in_fork(mutation: Mutation, *, judges: Judges) -> str:
    """As `outcome`, in a copy of this process, which has imported what the judges need."""
    name = function_of(mutation)
    module = importlib.import_module(f"tfm.{mutation.file.removesuffix('.py').replace('/', '.')}")
    code = compile(mutation.source, mutation.file, "exec", dont_inherit=True).co_consts
    changed = next(one for one in code if isinstance(one, CodeType) and one.co_name == name)
    function = inspect.unwrap(getattr(module, str(name)))
    if function.__module__ != module.__name__:  # the op: its body in PyTorch stands in their table alone
        function = TORCH[str(name)]
    child = os.fork()
    if child == 0:
        function.__code__ = changed
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(not all(passes(tests) for tests in judges(mutation)))
    until = time.monotonic() + TIMEOUT
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "TIMED OUT"
        time.sleep(0.1)
    return "killed" if ended[1] else "SURVIVED"


def far(mutation: Mutation) -> list[list[str]]:
    """The tests that should see a mutation, the quickest first."""
    return [*near(mutation), *RUNS[room(mutation.file)]]


def near(mutation: Mutation) -> list[list[str]]:
    """Laws and values of the ops of the mutated file, and others' comparisons with a composite.

    They kill most mutations in a tenth of the time.
    """
    if room(mutation.file) not in BODIES:
        return []
    specified = f"{BODIES[0]}/{Path(mutation.file).name}"
    ops = [node.name for node in functions_of(specified) if node.decorator_list]
    select = f"({' or '.join(ops) or 'test'}) and not test_graph"
    laws = ["tests/refimpl/laws/test_laws.py", "tests/export/ops/test_mirror.py", "-k", select]
    composite = mutation.file.startswith(BODIES[0]) and Path(mutation.file).stem in branches.COMPOSITES
    return [laws, *(outside(mutation) if composite else [])]


def outside(mutation: Mutation) -> list[list[str]]:
    """The comparisons that take branches of the mutated function, first those with the plain model."""
    function = f"{Path(mutation.file).stem}.{function_of(mutation)}"
    found = {
        test
        for name, tests in branches.measured().items()
        if name.split(":")[0] == function or name.startswith(f"{function}.")
        for test in tests
    }
    plain = {test for test in found if test.startswith(branches.PLAIN)}
    return [sorted(tests) for tests in (plain, found - plain) if tests]


def passes_without_a_bug(chosen: Sequence[Mutation], judges: Judges) -> None:
    """Run the judges in a copy of the tree as it is; SystemExit if they fail."""
    with tempfile.TemporaryDirectory() as name:
        copied(Path(name))
        code = "import tfm.refimpl as r; print(r.__file__)"
        imported = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": name},
            capture_output=True,
            text=True,
        )
        if not imported.stdout.startswith(name):
            raise SystemExit(f"the tests would import {imported.stdout.strip()}, not the copy in {name}")
        runs = {" ".join(tests): tests for one in chosen for tests in judges(one)}
        for told, tests in runs.items():
            if not run(Path(name), tests):
                raise SystemExit(f"{told} must pass before a bug is planted")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant bugs and see whether the tests notice.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="FOLDER", choices=RUNS)
    parser.add_argument("--files", nargs="+", default=(), metavar="NAME", help="names without .py")
    judged = parser.add_mutually_exclusive_group()
    judged.add_argument("--near", action="store_true", help="ops, by what compares those of the file")
    judged.add_argument("--outside", action="store_true", help="composites, by others' code alone")
    options = parser.parse_args()
    judges = near if options.near else outside if options.outside else far
    forks = options.near or options.outside
    if options.outside:
        options.only, options.files = BODIES[:1], options.files or branches.COMPOSITES
    folders = options.only or (BODIES if options.near else RUNS)
    chosen = drawn(options.seed, options.count, folders, options.files, functions=forks)
    judge = in_fork if forks else outcome
    if forks:
        by_name = {" ".join(tests): tests for one in chosen for tests in judges(one) if "-k" in tests}
        by_others = sorted({t for m in chosen for tests in judges(m) for t in tests if "-k" not in tests})
        if not all(map(passes, filter(None, (*by_name.values(), by_others)))):
            raise SystemExit("the judges must pass before a bug is planted")
    else:
        passes_without_a_bug(chosen, judges)
    others = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, result in zip(chosen, pool.map(partial(judge, judges=judges), chosen), strict=True):
            line = f"{result:9} {mutation}"
            print(line, flush=True)
            if result != "killed":
                others.append(line)
    print(f"seed {options.seed}: {len(chosen) - len(others)} of {len(chosen)} killed, the others:")
    print(*others, sep="\n")


if __name__ == "__main__":
    main()
