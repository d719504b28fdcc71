"""Which outside comparison takes each branch of a composite: `branches.json`, written by running them.

    python tests/meta/branches.py [TEST ...]    runs these judges, or all, and adds what they take: minutes

A composite is an op of refimpl/ops that is made of others: a sublayer, a layer, a model.

The judges are comparisons with others' code, transformers', torch's and ONNX's, and with the plain model of
`tests/helpers`, which shares none with the specification. A branch is the call of a function, a truth value
of a condition, also of one within an expression, or a case of a match. It is named by its text, so that a
change elsewhere in the file doesn't rename it. What only raises an error, or is only for types, is none.
The quickest tests that take a branch are named, the plain model last.

As a plugin of pytest (`-p branches`) it is what notices: refimpl/ops is compiled with a call in each branch.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OPS = ROOT / "refimpl" / "ops"
MEASURED = Path(__file__).with_name("branches.json")
FAMILIES = "tests/refimpl/checkpoint/families/test_families.py"
PLAIN = "tests/refimpl/ops/test_plain_model.py"
JUDGES = [
    PLAIN,
    "tests/refimpl/ops/test_onnx_cases.py",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/refimpl/ops").glob("test_oracles*.py")),
    f"{FAMILIES}::test_outputs_equal_transformers",
    f"{FAMILIES}::test_heads_equal_transformers",
    f"{FAMILIES}::test_decoders_that_read_in_both_directions",
    "tests/refimpl/checkpoint/families/test_mtp.py",
]
NAMED = 3  # judges of a branch beside the plain model
COMPOSITES = (
    "adaptive_softmax", "altup", "attention", "bigbird", "block", "channel_mix", "conv_stem",
    "convbert", "cross_attention", "disentangled", "encoder", "gated_delta", "head",
    "hyper_connections", "indexed_attention", "latent_attention", "laurel", "lightning",
    "linear_attention", "longformer", "longt5", "lstm", "mamba", "mamba2", "mask", "merged_attention",
    "mlp", "mobilebert", "model", "moe", "moonshine_stem", "mtp", "neighbour_conv", "ngram_memory",
    "norm", "per_layer", "pooled_attention", "rg_lru", "self_attention", "shared_attention",
    "shared_block", "short_conv", "time_mix", "wave_stem", "xlnet",
)  # fmt: skip
TYPES = "for the type checker: a Config with the other value is refused"
# Branches that no judge takes, each with what holds it in their place.
UNTAKEN = {
    "attention.written: not (cache.v_scale is not None)": TYPES,
    "attention.positioned: not (rotary is not None)": TYPES,
    "block._cross: encoder_kv is None": TYPES,
    "block._cross: leaves is None": TYPES,
    "block._mlp: leaves is None": TYPES,
    "moe.expert_mlp: not ('up' in weights)": "a target joins gate and up: its graphs are held to NumPy's",
}
TAKEN = "__taken__"


class Marked(ast.NodeTransformer):
    """Puts a call that says so into each branch of a module's functions, and names the branches."""

    def __init__(self, module: str) -> None:
        self.where = module
        self.names: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node = self._inside(node)
        marked = self._mark(f"{self.where}.{node.name}", "call")
        node.body.insert(1 if ast.get_docstring(node) is not None else 0, ast.Expr(marked))
        return node

    def visit_If(self, node: ast.If) -> ast.If:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        test = ast.unparse(node.test)
        self.generic_visit(node)
        node.test = self._condition(test, node.test, always=isinstance(node.body[-1], ast.Raise))
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.IfExp:
        return self._tested(node)

    def visit_While(self, node: ast.While) -> ast.While:
        return self._tested(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        tests = [ast.unparse(test) for test in node.ifs]
        self.generic_visit(node)
        node.ifs = [self._condition(*pair) for pair in zip(tests, node.ifs, strict=True)]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.BoolOp:
        tests = [ast.unparse(test) for test in node.values]
        constant = [isinstance(test, ast.Constant) for test in node.values]
        self.generic_visit(node)
        node.values = [
            value if fixed else self._condition(test, value)
            for test, value, fixed in zip(tests, node.values, constant, strict=True)
        ]
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.match_case:
        text = f"case {ast.unparse(node.pattern)}"
        self.generic_visit(node)
        if not isinstance(node.body[-1], ast.Raise):
            node.body.insert(0, ast.Expr(self._mark(self.where, text)))
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        return node

    def _inside(self, node: Any) -> Any:
        outer, self.where = self.where, f"{self.where}.{node.name}"
        node.body = [self.visit(statement) for statement in node.body]
        self.where = outer
        return node

    def _tested(self, node: Any) -> Any:
        test = ast.unparse(node.test)
        self.generic_visit(node)
        node.test = self._condition(test, node.test)
        return node

    def _condition(self, text: str, value: ast.expr, *, always: bool = False) -> ast.expr:
        """The condition, saying whether it was true; `always` if it is never true without an error."""
        no, yes = self._name(self.where, f"not ({text})"), None if always else self._name(self.where, text)
        return _call(ast.Constant(yes), ast.Constant(no), value)

    def _mark(self, where: str, text: str) -> ast.expr:
        return _call(ast.Constant(self._name(where, text)), ast.Constant(None), ast.Constant(True))

    def _name(self, where: str, text: str) -> str:
        """The branch's name; a second one of the same text has a number."""
        name = f"{where}: {text}"
        count = sum(other.split(" #")[0] == name for other in self.names)
        self.names.append(f"{name} #{count + 1}" if count else name)
        return self.names[-1]


def _call(*arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(TAKEN, ast.Load()), list(arguments), [])


def branches(source: str, module: str) -> list[str]:
    """The names of a module's branches."""
    marked = Marked(module)
    marked.visit(ast.parse(source))
    return marked.names


def composites() -> list[str]:
    """The names of all branches of composites, without those of the values that caches are."""
    return [
        name
        for stem in COMPOSITES
        for name in branches((OPS / f"{stem}.py").read_text(), stem)
        if not name.split(".")[1][0].isupper()
    ]


class _Loader(SourceFileLoader):
    """Compiles a module of refimpl/ops with its marks."""

    def get_code(self, fullname: str) -> CodeType:
        tree = Marked(Path(self.path).stem).visit(ast.parse(Path(self.path).read_text()))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, TAKEN, _taken)
        super().exec_module(module)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith("tfm.refimpl.ops."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


_judges: dict[str, set[str]] = defaultdict(set)
_seconds: dict[str, float] = {}
_running: list[str] = []


def _taken(yes: str | None, no: str | None, value: Any) -> Any:
    name = yes if value else no
    if name is not None and _running:
        _judges[name].add(_running[0])
    return value


def pytest_configure() -> None:
    """From here on refimpl/ops is compiled with marks."""
    sys.meta_path.insert(0, _Finder())  # pyright: ignore[reportArgumentType]


def pytest_runtest_call(item: pytest.Item) -> None:
    """What is taken from here on is taken by this test."""
    _running[:] = [item.nodeid]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test's time; one that failed is no judge."""
    if report.when == "call" and report.passed:
        _seconds[report.nodeid] = report.duration


def pytest_sessionfinish() -> None:
    """Write the quickest tests that took each branch."""
    passed = {name: tests & set(_seconds) for name, tests in _judges.items()}
    ordered = {
        name: sorted(tests, key=lambda t: (t.startswith(PLAIN), _seconds[t]))
        for name, tests in passed.items()
    }
    Path(os.environ["BRANCHES"]).write_text(json.dumps(ordered))


def measured() -> dict[str, list[str]]:
    """Branch -> the tests that take it, as they were measured last."""
    stored = json.loads(MEASURED.read_text())
    return {name: [stored["tests"][i] for i in found] for name, found in stored["branches"].items()}


def run(judges: Sequence[str]) -> dict[str, list[str]]:
    """Branch -> the quickest of these tests that take it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "taken.json"
        environment = os.environ | {"BRANCHES": str(file), "PYTHONPATH": str(Path(__file__).parent)}
        environment.pop("PYTEST_ADDOPTS", None)  # a report that another run writes
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "branches", *judges]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return json.loads(file.read_text())


def write(taken: Mapping[str, list[str]]) -> None:
    """Store some judges of the branches that there are, and the tests of the plain model."""
    kept: dict[str, list[str]] = {}
    for name in composites():
        plain = [test for test in taken.get(name, ()) if test.startswith(PLAIN)]
        others = [test for test in taken.get(name, ()) if not test.startswith(PLAIN)]
        if plain or others:
            kept[name] = [*others[:NAMED], *plain]
    tests = sorted({test for judges in kept.values() for test in judges})
    found = {name: [tests.index(test) for test in judges] for name, judges in kept.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {judges}" for name, judges in found.items())
    MEASURED.write_text(f'{{"tests": {json.dumps(tests, indent=0)},\n"branches": {{\n{lines}\n}}}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description="Which outside comparison takes each branch of composites?")
    parser.add_argument("judges", nargs="*")
    judges = parser.parse_args().judges
    before = {
        name: [test for test in tests if not test.startswith(tuple(judges))]
        for name, tests in (measured() if judges else {}).items()
    }
    after = run(judges or JUDGES)
    names = composites()
    both = {name: [*dict.fromkeys([*before.get(name, []), *after.get(name, [])])] for name in names}
    write(both)
    print(*(f"no judge takes {name}" for name, tests in both.items() if not tests), sep="\n")


if __name__ == "__main__":
    main()
