"""Every error that tfm raises on purpose: one root, and an exit code for each class.

A message is one line that names the file and the field: what must hold, what it got, and the likely fix.
"""

from __future__ import annotations


class TfmError(Exception):
    """Root of all errors that a user can cause; `exit_code` is what `tfm-cli` leaves with."""

    exit_code = 1


class ArgumentError(TfmError, TypeError):
    """An argument of another kind than the function takes, or an option that doesn't exist."""

    exit_code = 2


class CheckpointError(TfmError):
    """A model file that can't be read: safetensors, GGUF, tokenizer, an unsafe path or format."""

    exit_code = 3


class ConfigError(TfmError):
    """A config that contradicts itself, or an unknown key."""

    exit_code = 4


class BundleError(TfmError):
    """An exported model that is damaged, foreign, or made for another device."""

    exit_code = 5


class DeviceError(TfmError):
    """An execution provider that is missing, or that fell back to another one."""

    exit_code = 6


class ExportError(TfmError):
    """An export that can't be done or written, for example on a full disk."""

    exit_code = 7


class NumericError(TfmError):
    """NaN, infinity or overflow where a number must be finite."""

    exit_code = 8


class LimitError(TfmError):
    """A text or a number beyond its limit."""

    exit_code = 9


class ContextError(LimitError):
    """A text for which a model's context has no room."""


class VerifyError(TfmError):
    """`verify` found something outside its budget."""

    exit_code = 10
