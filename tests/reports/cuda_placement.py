"""RUNTIMES.md's list of families on ort-cuda, by config.json files as they are published.

PYTHONPATH=tests python -m reports.cuda_placement

The rules are those of `operator_limits`. tests/export/targets/test_cuda_placement.py asks ONNX Runtime's CUDA
provider where it places the nodes of such graphs.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

from collections import defaultdict

from tfm.refimpl.config import Config
from tfm.runtime.bundle import operator_limits, targets

from reports.layouts import listed, share, shown

TARGET = targets.find("ort-cuda")


def outcome(config: Config) -> str:
    """What becomes of a model, in a few words."""
    if reason := operator_limits.no_bundle(TARGET, config, "float16"):
        return f"no bundle: {reason}"
    if "decoder" not in config.stacks:
        return "a text is one run, which isn't captured"
    if (reason := operator_limits.capture(config)) is not None:
        return f"steps aren't captured: {reason}"
    return "steps are captured"


def table() -> str:
    """The families of each outcome, the most frequent first, with how many of their configs where not all."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, configs in sorted(shown().items()):
        outcomes = [outcome(config) for config in configs]
        for one in sorted(set(outcomes)):
            count = share([each == one for each in outcomes])
            found[one].append(name if count == "yes" else f"{name} ({count})")
    return listed(dict(sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))))


if __name__ == "__main__":
    print(table())
