"""Profiles for all tests: derandomized and short by default, `HYPOTHESIS_PROFILE=deep` for long runs."""

import fcntl
import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from helpers import browser, cuda_placement, gcc, vulkan
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from tfm.runtime.kernels.compilers import available
from tfm.runtime.kernels.platforms import Platform

# What slows a long process that exports hundreds of graphs: torch's memory of operators on fake tensors,
# which grows with each, and looking through all its objects again and again for what can be freed.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"
gc.set_threshold(100_000, 20, 20)
# One thread of torch's and NumPy's a process: of several processes they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels of tfm's own are for tests that ask for them (`kernels_on`): which path runs mustn't depend on what
# is in the cache.
os.environ["TFM_KERNELS"] = "0"

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "deep", max_examples=1000, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
if hypothesis.settings().derandomize:
    # Hypothesis also draws numbers that stand in the project's modules, of those that are loaded: what a test
    # gets would depend on which tests its process ran before.
    providers._get_local_constants = Constants


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine can't run, unless -m asks for it by name.

    That is tests in a browser, with GCC and an emulator, over a Vulkan in software, of what is compiled where
    there is no C++ compiler, and of ONNX Runtime's CUDA provider where its build has none.
    """
    there = {"browser": browser.chromium(), "gcc": gcc.tools(), "vulkan": vulkan.driver()}
    marks = [mark for mark, found in there.items() if not found and config.option.markexpr != mark]
    left_out = [item for item in items if any(map(item.get_closest_marker, marks))]
    compiled = {"kernels_library", "cuda_stubs"}
    kernels = [item for item in items if compiled & set(getattr(item, "fixturenames", ()))]
    for item in kernels:
        item.add_marker("compiler")
    if kernels and config.option.markexpr != "compiler" and not available(Platform.here()):
        left_out += kernels
    if not cuda_placement.PROVIDER.exists():
        left_out += [item for item in kernels if "cuda_stubs" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=left_out)
    if file := os.environ.pop("TFM_LEFT_OUT", None):  # not for a pytest that a test runs
        Path(file).write_text(told(items, left_out))
    items[:] = [item for item in items if item not in left_out]
    # Other runtimes first: one process then makes their environments, and the longest tests don't come last.
    items.sort(key=lambda item: item.get_closest_marker("peers") is None)


def told(items: list[pytest.Item], left_out: list[pytest.Item]) -> str:
    """The last line of .ci/run: how many of all tests it doesn't run, and how many this machine can't."""

    def marked(items: list[pytest.Item], *marks: str) -> int:
        return sum(all(map(item.get_closest_marker, marks)) for item in items)

    counts = [f"{marked(items, 'gpu')} gpu tests deselected"]
    for mark in ("browser", "compiler", "gcc", "vulkan"):
        counts.append(f"{marked(left_out, mark)} {mark} tests deselected")
    counts.append(f"{marked(items, 'peers', 'real')} tests of other runtimes on real models deselected")
    return ", ".join(counts) + "\n"


def pytest_collection_finish() -> None:
    """What the modules hold stays: who looks for circles, as a server does that ends, needn't look there."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Read the exporter's tables of operators once a process: it does so for each graph, 0.6 s."""
    if (module := sys.modules.get("torch.onnx._internal.exporter._registration")) is not None:
        read = module.ONNXRegistry.from_torchlib
        if not hasattr(read, "cache_info"):
            module.ONNXRegistry.from_torchlib = staticmethod(functools.cache(read))
    if (module := sys.modules.get("torch.onnx._internal.fx.passes.type_promotion")) is not None:
        table = module.TypePromotionTable
        if not hasattr(table, "cache_info"):
            module.TypePromotionTable = functools.cache(table)
    if (module := sys.modules.get("torch._export.utils")) is not None:
        operators = module._materialize_cpp_cia_ops
        if not hasattr(operators, "cache_info"):
            module._materialize_cpp_cia_ops = functools.cache(operators)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Child processes get SIGINT's default action.

    `nohup`, background jobs and many CI runners start processes that ignore SIGINT, and children inherit
    that. A handler set here becomes the default action in a child, which an ignored signal doesn't.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real checkpoint: the file that TFM_TEST_MODEL names, or fetched once into tfm's cache."""
    return _real("smollm2-135m", "TFM_TEST_MODEL")


def _real(name: str, variable: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named)
    from tfm.runtime.hub.cache_dir import cache_dir
    from tfm.runtime.hub.locate import fetch
    from tfm.runtime.progress import silent

    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one download
        return fetch(name, silent)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real sentence encoder: the directory that TFM_TEST_MINILM names, or fetched once."""
    return _real("minilm-l6", "TFM_TEST_MINILM")


@pytest.fixture(scope="session")
def kernels_library() -> Path:
    """The library of kernels for this machine, compiled into tfm's cache once for all processes and runs."""
    from tfm.runtime.kernels.build import build

    return build(retry=True, limit_s=3600)


@pytest.fixture(scope="session")
def cuda_stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LD_LIBRARY_PATH with stubs of CUDA's libraries, over which its provider starts."""
    from helpers import cuda_stubs

    return cuda_stubs.build(tmp_path_factory.mktemp("cuda"), available(Platform.here())[0])


@pytest.fixture
def kernels_on(kernels_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernels are on, and their library is there."""
    monkeypatch.delenv("TFM_KERNELS")
    return kernels_library


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """One tiny model on each engine: NumPy first, torch, and both kinds of ONNX cache."""
    from helpers import tiny_models
    from tfm.export.bundle_writer import export
    from tfm.export.torch_engine import TorchEngine
    from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
    from tfm.refimpl.engine.numpy_engine import NumpyEngine
    from tfm.runtime.bundle.bundle import open_bundle
    from tfm.runtime.ort.engine import OrtEngine

    tmp_path = tmp_path_factory.mktemp("engines")
    config = tiny_models.llama(context=40)
    params = tiny_models.weights(config, seed=4)
    save_checkpoint(tmp_path / "model", config, params)
    built: list[Any] = [NumpyEngine(config, params), TorchEngine(config, params)]
    for target in ("standard", "ort-cpu"):
        checkpoint = open_checkpoint(tmp_path / "model")
        export(checkpoint, tmp_path / target, target=target, quant="fp32", verify=False)
        built.append(OrtEngine(open_bundle(tmp_path / target), threads=1))
    return built
