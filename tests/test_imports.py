"""The rules of imports, read from the source: who may import whom, and what nobody may use."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("refimpl", "runtime", "export", "cli")
LAWS = ROOT / "refimpl" / "laws"
NESTED = ("refimpl.checkpoint",)  # folders that have rooms of their own
MOST_ROOMS = 10  # of such a folder: more can't be seen at a glance
# Parts of folders that need an extra.
PARTS = {
    "refimpl/laws": LAWS,
    "runtime/serve": ROOT / "runtime" / "serve",
    "runtime/fleet": ROOT / "runtime" / "fleet",
}
STANDARD = set(sys.stdlib_module_names)
# What each folder may import from outside; `tfm` stands for imports of tfm, which ARROWS restricts.
OUTSIDE = {
    "refimpl": {"numpy"},
    # The one part of refimpl that needs more than numpy: the extra [laws].
    "refimpl/laws": {"numpy", "hypothesis", "jaxtyping"},
    # The one part of runtime that needs the extra [serve].
    "runtime/serve": {"numpy", "starlette", "uvicorn", "h11", "pydantic", "prometheus_client"},
    # The one part that needs the extra [ray], which brings pyarrow; its server those of [serve] too.
    "runtime/fleet": {"numpy", "ray", "pyarrow", "starlette", "prometheus_client"},
    # huggingface_hub is the extra [hub], imported where a hub's name is fetched; llguidance is of [serve],
    # soundfile and soxr are of [audio].
    "runtime": {
        "numpy",
        "onnxruntime",
        "tokenizers",
        "jinja2",
        "platformdirs",
        "huggingface_hub",
        "llguidance",
        "soundfile",
        "soxr",
        "threadpoolctl",
    },
    "export": {"numpy", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "threadpoolctl"},
    # matplotlib is the extra [plot], imported where a picture is asked for; prompt_toolkit for who types.
    "cli": {"numpy", "typer", "rich", "platformdirs", "onnxruntime", "matplotlib", "prompt_toolkit"},
}
ARROWS = {
    "refimpl": {"refimpl"},
    "runtime": {"refimpl", "runtime"},
    "export": {"refimpl", "runtime", "export"},
    "cli": set(FOLDERS),
}
# The rooms from the ground up: each imports only rooms of earlier lines (and the folder's arrows hold too).
STAGES = (
    ("refimpl.axes", "refimpl.errors", "refimpl.error_budget"),
    ("refimpl.config",),
    ("refimpl.ops",),
    ("refimpl.components", "refimpl.params"),
    ("refimpl.calibrate", "refimpl.engine", "refimpl.laws"),
    ("refimpl.decoding",),
    ("refimpl.checkpoint.formats",),
    ("refimpl.checkpoint.tokenizers", "refimpl.checkpoint.weights"),
    ("refimpl.checkpoint.config_readers",),
    ("refimpl.checkpoint.families",),
    ("refimpl.checkpoint",),
    ("refimpl",),
    (
        "runtime.hardware",
        "runtime.live_sound",
        "runtime.progress",
        "runtime.serving_defaults",
        "runtime.silence",
        "runtime.sound_files",
    ),
    ("runtime.parallel",),
    ("runtime.bundle", "runtime.text"),
    ("runtime.hub",),
    ("runtime.kernels",),
    ("runtime.ort",),
    ("runtime.tasks",),
    ("runtime.verification",),
    ("runtime.analysis", "runtime.serve"),
    ("runtime.fleet",),
    ("runtime",),
    ("export.scan", "export.torch_bodies"),
    ("export.ops",),
    ("export.dispatch",),
    (
        "export.distributed_ring",
        "export.targets",
        "export.tokenizer_text",
        "export.torch_engine",
    ),
    ("export.destination", "export.graph", "export.quantization", "export.ring_cost"),
    ("export.bundle_writer", "export.diagnose", "export.layouts"),
    ("export",),
    ("cli.console", "cli.usage"),
    ("cli.chat_terminal", "cli.inputs", "cli.model_loading", "cli.plot"),
    ("cli.options",),
    ("cli.chat_commands", "cli.fleet", "cli.report_page"),
    ("cli.commands",),
    ("cli.main",),
    ("cli", "cli.__main__", "cli.tfm"),
)
STAGE = {room: stage for stage, rooms in enumerate(STAGES) for room in rooms}
PARAMETERS = 8  # of a public function of ops and of an emit: more are a typed mapping or a dataclass
# What the bodies in PyTorch may import of tfm.
BODIES = (
    "tfm.refimpl.axes",
    "tfm.refimpl.config",
    "tfm.refimpl.errors",
    "tfm.refimpl.ops",
    "tfm.export.ops",
    "tfm.export.scan",
    "tfm.export.torch_bodies",
)
# Never, anywhere: they run code that a model file could bring along.
CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@dataclass(frozen=True)
class Import:
    """An import statement: the module in full, whether it runs at import time, whether only for types."""

    file: Path
    line: int
    module: str
    inside: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def files(*parts: str) -> list[Path]:
    paths = sorted(ROOT.joinpath(*parts).rglob("*.py"))
    assert paths, f"no sources under {parts}"
    return paths


def module_of(file: Path) -> list[str]:
    return ["tfm", *file.relative_to(ROOT).with_suffix("").parts]


@cache
def imports(file: Path, source: str | None = None) -> tuple[Import, ...]:
    """All imports of a file, relative ones resolved."""
    here = module_of(file)

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level], *(node.module or "").split(".")]
            names = [".".join(filter(None, [*base, "" if node.module else a.name])) for a in node.names]
            if node.module:
                names = [f"{name}.{a.name}" for name, a in zip(names, node.names, strict=True)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            yield Import(file, node.lineno, name, inside, typing)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, typing or (guard and child in node.body))

    return tuple(walk(ast.parse(source if source is not None else file.read_text()), False, False))


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_between_the_folders(folder: str):
    """refimpl ← runtime ← export ← cli, and from outside only what the folder is allowed."""
    seen = 0
    for one in (i for f in files(folder) for i in imports(f)):
        seen += 1
        if top(one.module) == "tfm":
            assert one.module.split(".")[1] in ARROWS[folder], f"{one}: {folder} may not"
        elif top(one.module) not in STANDARD and not one.typing:
            inside = next((f for f, path in PARTS.items() if one.file.is_relative_to(path)), folder)
            assert top(one.module) in OUTSIDE[inside], f"{one}: {inside} may not"
    assert seen > 10


def module(name: str, names: Collection[str]) -> str:
    """The module of tfm that an imported name is, or lies in."""
    while name not in names:
        name = name.rpartition(".")[0]
    return name


def modules() -> dict[str, Path]:
    """Every module of tfm and its file."""
    return {
        ".".join(module_of(file)).removesuffix(".__init__"): file
        for folder in FOLDERS
        for file in files(folder)
    }


def room(name: str) -> str:
    """`refimpl.ops` of tfm.refimpl.ops.attention and of tfm.refimpl.ops; in `NESTED`, the folder there."""
    parts = name.split(".")[1:]
    deep = ".".join(parts[:2]) in NESTED and ROOT.joinpath(*parts[:3]).is_dir()
    return ".".join(parts[: 3 if deep else 2])


def test_every_room_has_its_stage():
    assert {room(name) for name in modules()} == set(STAGE), "a new room gets its line in STAGES"


def test_the_specification_reads_no_checkpoint():
    """refimpl is the specification, refimpl/checkpoint the reading of checkpoints, which imports it."""
    for one in (i for f in files("refimpl") for i in imports(f)):
        if not one.file.is_relative_to(ROOT / "refimpl" / "checkpoint"):
            assert not one.module.startswith("tfm.refimpl.checkpoint"), str(one)


@pytest.mark.parametrize("folder", ["refimpl", *NESTED])
def test_there_are_few_rooms(folder: str):
    """Of the specification, and of the reading of checkpoints."""
    rooms = [*ROOT.joinpath(*folder.split(".")).glob("*/__init__.py")]
    assert 1 < len(rooms) <= MOST_ROOMS


def test_imports_run_downward():
    """A room imports rooms of earlier stages and itself, for types too."""
    names = modules()
    for name, file in names.items():
        for one in (i for i in imports(file) if top(i.module) == "tfm"):
            here, there = room(name), room(module(one.module, names))
            assert here == there or STAGE[there] < STAGE[here], f"{one}: {there} stands above {here}"


def circle(edges: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that import each other around a circle; none is an empty list."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports():
    """No circles, also not for types and inside functions: modules that need each other belong together."""
    names = modules()
    edges = {
        name: {module(i.module, names) for i in imports(file) if top(i.module) == "tfm"} - {name}
        for name, file in names.items()
    }
    assert not circle(edges), " <- ".join(circle(edges))
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]})


def test_functions_of_ops_take_few_parameters():
    """Weights are passed as a typed mapping, settings as a dataclass."""
    for folder in (("refimpl", "ops"), ("export", "ops"), ("export", "targets")):
        for file in files(*folder):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
                    where = f"{file.relative_to(ROOT)}: {node.name}"
                    assert count <= PARAMETERS, f"{where} takes {count} parameters"


def allowed(one: Import, *prefixes: str) -> bool:
    return top(one.module) != "tfm" or one.typing or any(one.module.startswith(p) for p in prefixes)


def test_the_spec_of_operators_stands_alone():
    """refimpl/ops imports config, errors and its siblings, nothing else of tfm."""
    for one in (i for f in files("refimpl", "ops") for i in imports(f)):
        assert allowed(one, "tfm.refimpl.config", "tfm.refimpl.errors", "tfm.refimpl.ops"), str(one)


def test_bodies_in_pytorch_know_no_target_and_no_numpy():
    """What they call of refimpl/ops are ops, which run in PyTorch too: a NumPy body refuses tensors."""
    for one in (i for f in files("export", "ops") for i in imports(f)):
        assert allowed(one, *BODIES), str(one)
        assert top(one.module) != "numpy", str(one)


def test_nothing_else_imports_the_laws():
    """They need hypothesis, which the specification and its users don't."""
    for one in (i for folder in FOLDERS for f in files(folder) for i in imports(f)):
        if not one.file.is_relative_to(LAWS):
            assert not one.module.startswith("tfm.refimpl.laws"), str(one)


def test_config_is_standard_library_alone():
    for one in (i for f in files("refimpl", "config") for i in imports(f)):
        allowed = one.module.startswith(("tfm.refimpl.errors", "tfm.refimpl.config"))
        assert top(one.module) in STANDARD or allowed, str(one)


def test_only_the_child_process_renders_templates():
    """Jinja crashes and hangs on hostile ones; the child's program stands alone, and starts fast."""
    program = ROOT / "runtime" / "text" / "template_renderer.py"
    every = (one for file in files("runtime") for one in imports(file))
    importers = {one.file for one in every if top(one.module) == "jinja2"}
    assert importers == {program}
    assert {top(one.module) for one in imports(program)} <= STANDARD | {"jinja2"}


def test_commands_import_inside_their_body():
    """The top of a command imports only what help needs: no torch, no export, no session."""
    for one in (i for f in files("cli") for i in imports(f)):
        if not one.inside and not one.typing:
            assert not one.module.startswith("tfm.export"), f"{one}: inside the function that needs it"
            outside = top(one.module)
            slow = ("onnxruntime", "matplotlib", "prompt_toolkit")
            assert outside not in slow, f"{one}: inside the function that needs it"


def test_the_command_line_loads_without_torch():
    """By running it: neither the command line nor the runtime imports torch or onnx."""
    unwanted = {"torch", "onnx", "jaxtyping", "matplotlib"}
    code = f"import sys, tfm.cli.main, tfm.runtime; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bundle_runs_without_the_readers_of_checkpoints():
    """They take 0.15 s to import, a sixth of what a first token takes from the bundle."""
    unwanted = {
        "tfm.refimpl.checkpoint.open",
        "tfm.refimpl.checkpoint.families",
        "tfm.refimpl.checkpoint.formats.gguf",
        "tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.apply",
        "email",
    }
    code = f"import sys, tfm.runtime.tasks; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def runs_code(source: str) -> list[str]:
    """Calls that run what a file says, and modules that do."""
    results = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            results += [n for n in names if top(n) in CODE]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "__import__", "torch.load", "torch.jit.load"):
                results.append(called)
            results += [
                ast.unparse(k)
                for k in node.keywords
                if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
            ]
            results += [
                "shell=True" for k in node.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"
            ]
    return results


def test_nothing_runs_code_from_files():
    for folder in FOLDERS:
        for file in files(folder):
            assert not runs_code(file.read_text()), f"{file.relative_to(ROOT)}: {runs_code(file.read_text())}"


def test_the_readers_of_source_find_planted_code():
    """`imports` and `runs_code` find what they look for."""
    bad = "import pickle\nfrom marshal import loads\neval('1')\ntorch.load('x')\n"
    bad += "np.load('x', allow_pickle=True)"
    assert runs_code(bad) == ["pickle", "marshal", "eval", "torch.load", "allow_pickle=True"]
    source = (
        "import a.b\nfrom ..config import C\nfrom . import quant\n"
        "if TYPE_CHECKING:\n    from x import y\ndef f():\n    import torch\n"
    )
    seen = [(i.module, i.inside, i.typing) for i in imports(ROOT / "refimpl" / "ops" / "z.py", source)]
    assert seen == [
        ("a.b", False, False),
        ("tfm.refimpl.config.C", False, False),
        ("tfm.refimpl.ops.quant", False, False),
        ("x.y", False, True),
        ("torch", True, False),
    ]


def test_packages_are_all_listed():
    """A subpackage that pyproject.toml forgets works in an editable install and is missing from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "cli" / "tfm"  # becomes `tfm` itself
    folders = {f.parent for folder in FOLDERS for f in files(folder)} - {package}
    assert set(project["packages"]) == {".".join(module_of(f)) for f in folders} | {"tfm"}
    for folder in folders:
        assert (folder / "__init__.py").exists(), f"{folder} is no package"
    assert project["package-dir"] == {"tfm": "cli/tfm"} | {f"tfm.{f}": f for f in FOLDERS}
