"""What `serve run tfm.runtime.fleet:app` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.refused import refused
from tfm.refimpl.errors import ArgumentError
from tfm.runtime.fleet.settings import Settings


def test_arguments_win_over_the_environment():
    environment = {
        "TFM_FLEET_BUNDLE": "/a",
        "TFM_FLEET_SLOTS": "3",
        "TFM_FLEET_MAX_REPLICAS": "7",
        "SLOTS": "9",
    }
    read = Settings.read({"slots": "5", "bundle": "/m/x,/m/y"}, environment)
    assert read == Settings(bundle="/m/x,/m/y", slots=5, max_replicas=7)
    assert read.bundles == {"x": Path("/m/x"), "y": Path("/m/y")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "bundle=PATH TFM_FLEET_BUNDLE"),
        ({"bundle": "/m", "replicas": 2}, "'replicas'"),
        ({"bundle": "/m", "slots": "many"}, "slots 'many'"),
        ({"bundle": "/m", "slots": "0"}, "slots 1 0"),
        ({"bundle": "/m", "min_replicas": 2}, "min_replicas max_replicas 2 1"),
        ({"bundle": "/m/x,/n/x"}, "name"),
    ],
)
def test_other_settings_are_refused(given: dict[str, object], message: str):
    with refused(ArgumentError, *message.split()):
        _ = Settings.read(given, {}).bundles
