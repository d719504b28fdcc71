"""Describe a model with an unsupported model_type: the kind of the model, its text part, and similar
families.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ConfigError
from .generation_keys import UNREAD
from .keys import Keys

# Keys that only models of sounds, or of pictures, have.
SOUNDS = {
    "num_mel_bins", "feat_extract_norm", "conv_dim", "sampling_rate", "audio_encoder", "codebook_size",
}  # fmt: skip
PICTURES = {"image_size", "patch_size", "num_channels", "vision_config", "backbone_config"}
# Why a model isn't its text part, or a family whose keys or layers it has, though those are read.
OTHERWISE = {
    "canine": "Its deep layers have a vector for every few characters, its other layers have one for each "
    "character. In tfm, every layer has one vector for each token",
    "lilt": "It reads each token with its position on a page, and tfm has no input for such positions",
    "paligemma": "A prompt's tokens also see later tokens (prefix-LM), which tfm doesn't support",
    "switch_transformers": "An expert drops a text's tokens beyond its capacity, which single tokens never "
    "reach. So what the model writes depends on how it is run",
}
INSTEAD = "Use a model of a supported type, or add this type to tfm"
NEAR = "The nearest supported types, which have the same config keys, are: {}"
NONE_NEAR = "No supported type has the same config keys"
SHOWN = 3  # families
UNTOLD = 4  # keys that a family doesn't know: from so many on it is no kin


def describe(values: Mapping[str, Any], families: Mapping[str, Any]) -> str:
    """Return the end of an error message about a config.json with a model_type that isn't among the
    `families`. This text says what the model is, which supported types are near, and what to use instead.
    """
    if SOUNDS & values.keys():
        return f"It is an audio model. {INSTEAD}"
    if (why := OTHERWISE.get(str(values.get("model_type")))) is not None:
        return f"{why}. {INSTEAD}"
    for name, part in parts(values):
        kind = part.get("model_type")
        if kind in families:
            return (
                f"tfm reads only its text part ({name}, a {kind}). Save that part as a separate model first"
            )
        if "vocab_size" in part and (kin := nearest(part, families)):
            return f"tfm doesn't read its text part ({name}) either. {NEAR.format(kin)}. {INSTEAD}"
    if texts := [name for name, part in parts(values) if "vocab_size" in part]:
        return f"tfm doesn't read its text part ({texts[0]}) either. {NONE_NEAR}. {INSTEAD}"
    if "vocab_size" not in values and PICTURES & values.keys():
        return f"It is an image model. {INSTEAD}"
    kin = nearest(values, families)
    kind = "It is a text model" if "vocab_size" in values else "tfm can't tell what kind of model it is"
    return f"{kind}. {NEAR.format(kin) if kin else NONE_NEAR}. {INSTEAD}"


def parts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the configs of a model's parts within its config, each with the path of its keys. Text parts come
    first.
    """
    for key in sorted(values, key=lambda key: (not key.startswith(("text", "llm", "language")), key)):
        if isinstance(part := values[key], Mapping) and key.endswith("_config") and above.count(".") < 2:
            yield above + key, part
            yield from parts(part, f"{above}{key}.")


def nearest(values: Mapping[str, Any], families: Mapping[str, Any]) -> str:
    """Return a text that names the families that can read these keys, and the keys that each family leaves
    unread.

    Families with the fewest unread keys come first, then families with the fewest missing keys, then families
    with similar names.
    """
    kind, named = str(values.get("model_type")), values.get("architectures")
    classes = re.findall(r"For[A-Z]\w+$", str(named[0])) if isinstance(named, list) and named else []
    kin: list[tuple[int, int, float, str]] = []
    for name in {id(family): name for name, family in families.items() if name != "tfm"}.values():
        if any(not any(one.endswith(end) for one in families[name].ARCHITECTURES) for end in classes):
            continue
        keys = Keys({**values, "model_type": name}, "")
        try:
            families[name].config(keys, next(iter(families[name].ARCHITECTURES.values())))
        except ConfigError:
            continue
        unread = sorted(keys.unread - UNREAD.keys() - {"architectures", "is_encoder_decoder"})
        if len(unread) < UNTOLD:
            alike = difflib.SequenceMatcher(a=kind, b=name).ratio()
            told = f"{name} (except {', '.join(unread)})" if unread else name
            kin.append((len(unread), keys.in_vain, -alike, told))
    return ", ".join(told for *_, told in sorted(kin)[:SHOWN])
