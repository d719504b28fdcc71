"""Counts how often the project tells the same thing: one number for each rule, each with how it is counted.

    python tests/meta/house.py [--list]

With `--list` it says which files and functions it counted, where the number alone says too little.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import ast
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SOURCES = ("refimpl", "export", "runtime", "cli")
MIXERS = ("Mamba2", "XLNetAttention", "LatentAttention", "ShortConv")
BRANCHING = ("validate", "shapes", "smooth", "block", "inspect", "operator_limits")
WALKS = (
    "refimpl/engine/passes.py", "refimpl/engine/attention_maps.py",
    "refimpl/engine/cross_attention_maps.py", "export/diagnose/reference_values.py",
    "runtime/verification/streamed_reference.py", "export/quantization/activation_recorder.py",
)  # fmt: skip
SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")  # a window that was heard has a temperature too
PROSE = re.compile(r"\b[a-z][a-z']+ [a-z][a-z']+\b")
NEARLY = 0.85  # of the edges of two syntax trees
LEAST = 6  # lines of a function that is compared, without its docstring


@dataclass(frozen=True)
class File:
    """A source file and its syntax tree."""

    path: str
    text: str

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of its syntax tree."""
        return list(ast.walk(ast.parse(self.text)))

    def calls(self, *names: str) -> int:
        """How often it calls functions of these names."""
        calls = (node.func for node in self.nodes if isinstance(node, ast.Call))
        return sum(getattr(called, "id", getattr(called, "attr", None)) in names for called in calls)

    @property
    def room(self) -> str:
        """The folder that it is in."""
        return str(Path(self.path).parent)


def files(root: Path, *folders: str) -> list[File]:
    """The Python files below these folders."""
    found = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return [File(str(path.relative_to(root)), path.read_text()) for path in found]


def lines(root: Path, *folders: str) -> int:
    """All lines of Python, C++ and C below these folders."""
    paths = (path for folder in folders for path in (root / folder).rglob("*"))
    return sum(len(path.read_text().splitlines()) for path in paths if path.suffix in (".py", ".cpp", ".h"))


def forward_passes(sources: list[File]) -> list[str]:
    """Places that compute blocks one after the other.

    They are the files that call `block` or `encoder_block`, or make an object of a class whose methods do.
    Files of one folder `ops` are one place: the decoder and the encoder of one telling.
    """
    blocks = ("block", "encoder_block")
    walks = {
        node.name
        for file in sources
        for node in file.nodes
        if isinstance(node, ast.ClassDef)
        and any(isinstance(n, ast.Call) and getattr(n.func, "id", None) in blocks for n in ast.walk(node))
    }
    calling = [file for file in sources if file.calls(*blocks, *walks)]
    return sorted({file.room if file.room.endswith("ops") else file.path for file in calling})


def repeated_lines(sources: list[File]) -> int:
    """Lines of export/ops, stripped and longer than 12 characters, that are somewhere in refimpl/ops."""
    spec = {line.strip() for file in sources if file.room == "refimpl/ops" for line in file.text.splitlines()}
    mirror = [line.strip() for f in sources if f.room == "export/ops" for line in f.text.splitlines()]
    return sum(len(line) > 12 and line in spec for line in mirror)


def naming(sources: list[File], name: str) -> int:
    """How many files have this word, in code or text."""
    return sum(re.search(rf"\b{name}\b", file.text) is not None for file in sources)


def shape_places(sources: list[File]) -> list[str]:
    """Places that say which axes the weights have: annotations of a folder, code of a file, text of a file.

    A weight is a name that a TypedDict annotates with an array. Code says its shape as `d["name"] = (..)` or
    `"name": (..)`, a docstring as `name D,H*K`. Five weights make a place.
    """
    stated: Counter[str] = Counter()
    weights: set[str] = set()
    for file in sources:
        for node in file.nodes:
            if isinstance(node, ast.ClassDef) and any("TypedDict" in ast.unparse(b) for b in node.bases):
                fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                named = {ast.unparse(n.target) for n in fields if "Float[" in ast.unparse(n.annotation)}
                weights |= named
                stated[f"{file.room}, annotations"] += len(named)
    for file in sources:
        stated[f"{file.path}, code"] += len(weights & set(_shapes_in_code(file)))
        text = ast.get_docstring(ast.parse(file.text)) or ""
        told = re.findall(r"\b(\w+) [A-Z_][*+,][A-Z0-9*+,]+", text)
        stated[f"{file.path}, text"] += len(weights & set(told))
    return sorted(place for place, count in stated.items() if count >= 5)


def _shapes_in_code(file: File) -> Iterator[str]:
    for node in file.nodes:
        pairs: list[tuple[ast.AST | None, ast.AST]] = []
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pairs = [(node.targets[0].slice, node.value)]
        elif isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        for key, value in pairs:
            if isinstance(value, ast.Tuple) and isinstance(key, ast.Constant):
                yield str(key.value)


def frozen_sentences(file: File) -> int:
    """How many assertions of errors quote prose: two words of small letters or more, one after the other.

    An assertion is a keyword `match`, or a call of `failed` or `refused`; it quotes its texts. If it has
    a variable, each text of the table that parametrizes its function is an assertion too.
    """
    found = 0
    for scope, table in _scopes(file):
        for node in scope:
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "match":
                values = [node.value]
            elif isinstance(node, ast.Call) and _called(node) in ("failed", "refused"):
                values = node.args
            found += any(_quotes(value) for value in values)
            names = {n.id for value in values for n in ast.walk(value) if isinstance(n, ast.Name)}
            found += sum(_quotes(cell) for name in names for cell in table.get(name, []))
    return found


def _called(node: ast.Call) -> str | None:
    return getattr(node.func, "id", getattr(node.func, "attr", None))


def _quotes(value: ast.expr) -> bool:
    texts = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return any(PROSE.search(text) for text in texts)


def _scopes(file: File) -> Iterator[tuple[list[ast.AST], dict[str, list[ast.expr]]]]:
    """What is in each function, with its table: name of a parameter -> its cells; then what is in none."""
    functions = [node for node in file.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {node for function in functions for node in ast.walk(function)}
    seen: set[ast.AST] = set()
    for function in functions:
        table: dict[str, list[ast.expr]] = {}
        for mark in function.decorator_list:
            if isinstance(mark, ast.Call) and _called(mark) == "parametrize":
                _fill(table, *mark.args[:2])
        yield [node for node in ast.walk(function) if node not in seen], table
        seen.update(ast.walk(function))
    yield [node for node in file.nodes if node not in inner], {}


def _fill(table: dict[str, list[ast.expr]], names: ast.expr, rows: ast.expr) -> None:
    named = [n.value for n in ast.walk(names) if isinstance(n, ast.Constant)]
    named = [name.strip() for text in named for name in str(text).split(",")]
    for row in rows.elts if isinstance(rows, ast.List | ast.Tuple) else []:
        cells = row.args if isinstance(row, ast.Call) else getattr(row, "elts", [row])
        for name, cell in zip(named, [row] if len(named) == 1 else cells, strict=False):
            table.setdefault(name, []).append(cell)


def sampling_declarations(sources: list[File]) -> int:
    """How often the option of sampling that is told most is.

    That is a parameter with a default, a field, an alias of its type in CamelCase, a keyword or an entry of a
    dict that hands it on or says something of it. An entry that is a number states a value alone.
    """
    names: Counter[str] = Counter(name for file in sources for node in file.nodes for name in _told(node))
    return max(names[name] for name in SAMPLING)


def _told(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.arguments(posonlyargs=first, args=args, kwonlyargs=named, kw_defaults=given):
            count = len(node.defaults)
            yield from (one.arg for one in [*first, *args][-count:] if count)
            yield from (one.arg for one, default in zip(named, given, strict=True) if default is not None)
        case ast.AnnAssign(target=target):
            yield ast.unparse(target)
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript(value=ast.Name(id="Annotated"))):
            yield re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        case ast.keyword(arg=str(name), value=ast.Name() | ast.Attribute()):
            yield name
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            yield from (
                str(key.value)
                for key, value in pairs
                if isinstance(key, ast.Constant) and not isinstance(value, ast.Constant)
            )


def edges_of(function: ast.AST) -> Counter[str]:
    """The edges of a function's syntax tree, without the names of its variables."""
    edges: Counter[str] = Counter()
    for node in ast.walk(function):
        edges.update(f"{type(node).__name__}>{_kind(child)}" for child in ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            edges[node.func.id] += 1
    return edges


def _kind(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else type(node).__name__


def _body(function: ast.FunctionDef) -> ast.FunctionDef | None:
    """A function without its docstring, if enough lines are left."""
    told = ast.get_docstring(function) is not None
    body = function.body[1:] if told else function.body
    if not body:
        return None
    docstring = function.body[0]
    taken = (docstring.end_lineno or 0) - docstring.lineno + 1 if told else 0
    if (function.end_lineno or 0) - function.lineno + 1 - taken < LEAST:
        return None
    return ast.FunctionDef(function.name, function.args, body, [], None)  # type: ignore[call-arg]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions of a module and of its classes, without those inside of functions."""
    for node in tree.body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef):
                yield inner


def twins(sources: list[File]) -> list[tuple[str, str]]:
    """Pairs of functions of `LEAST` lines or more that share `NEARLY` all edges of their syntax trees."""
    found = []
    for file in sources:
        for node in _functions(ast.parse(file.text)):
            if (function := _body(node)) is not None:
                edges = edges_of(function)
                found.append((edges.total(), edges, f"{file.path}:{node.lineno} {node.name}"))
    found.sort(key=lambda one: one[0])
    sizes = [size for size, _, _ in found]
    return [
        (name, other)
        for i, (size, edges, name) in enumerate(found)
        for _, more, other in found[i + 1 : bisect_right(sizes, size / NEARLY)]
        if _similar(edges, more)
    ]


def _similar(one: Counter[str], other: Counter[str]) -> bool:
    shared = sum(min(count, other[edge]) for edge, count in one.items())
    return shared >= NEARLY * max(one.total(), other.total())


def counts(root: Path) -> dict[str, int]:
    """What is counted -> how much of it there is."""
    sources, tests = files(root, *SOURCES), files(root, "tests")
    branching = [file for file in sources if Path(file.path).stem in BRANCHING]
    walks = [file for file in sources if file.path in WALKS]
    return {
        "forward passes": len(forward_passes(sources)),
        "lines of export/ops that are in refimpl/ops": repeated_lines(sources),
        **{f"source files that name {name}": naming(sources, name) for name in MIXERS},
        f"isinstance in {', '.join(BRANCHING)}": sum(file.calls("isinstance") for file in branching),
        "places that state the shapes of weights": len(shape_places(sources)),
        "lines of export/ops": lines(root, "export/ops"),
        "lines of walks and observers": sum(len(file.text.splitlines()) for file in walks),
        "calls of parameter_shapes": sum(file.calls("parameter_shapes") for file in sources),
        "calls of smoothing_sites": sum(file.calls("smoothing_sites") for file in sources),
        "functions gguf_config": sum("def gguf_config(" in file.text for file in sources),
        "declarations of a sampling option": sampling_declarations(sources),
        "assertions of errors that quote prose": sum(map(frozen_sentences, tests)),
        "lines of sources": lines(root, *SOURCES),
        "lines of tests": lines(root, "tests"),
        "pairs of twins in sources": len(twins(sources)),
        "pairs of twins in tests": len(twins(tests)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what is told more than once.")
    parser.add_argument("--list", action="store_true", help="list the forward passes, places and twins")
    root, listed = Path(__file__).parents[2], parser.parse_args().list
    if listed:
        sources = files(root, *SOURCES)
        print(*forward_passes(sources), *shape_places(sources), sep="\n")
        print(*(f"{one} = {other}" for one, other in twins(sources)), sep="\n")
    else:
        print(*(f"{count:7,}  {what}" for what, count in counts(root).items()), sep="\n")


if __name__ == "__main__":
    main()
