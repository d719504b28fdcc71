"""Every error that tfm raises on purpose. They have one root class, and each class has an exit code.

A message is one line that names the file and the field, and says what must hold, what was found, and the
likely fix.
"""

from __future__ import annotations


class TfmError(Exception):
    """The root class of all errors that a user can cause; `exit_code` is the exit status of `tfm-cli`."""

    exit_code = 1


class ArgumentError(TfmError, TypeError):
    """An argument has a type that the function doesn't take, or an option doesn't exist."""

    exit_code = 2


class CheckpointError(TfmError):
    """A model file can't be read: safetensors, GGUF, a tokenizer, an unsafe path or format."""

    exit_code = 3


class ConfigError(TfmError):
    """A config contradicts itself, or has an unknown key."""

    exit_code = 4


class BundleError(TfmError):
    """An exported model is damaged, was not exported by tfm, or was made for another device."""

    exit_code = 5


class DeviceError(TfmError):
    """An execution provider is missing, or fell back to another one."""

    exit_code = 6


class ExportError(TfmError):
    """An export can't be done or written, for example on a full disk."""

    exit_code = 7


class NumericError(TfmError):
    """A number is NaN, infinite or overflows where it must be finite."""

    exit_code = 8


class LimitError(TfmError):
    """A text or a number exceeds its limit."""

    exit_code = 9


class ContextError(LimitError):
    """A text doesn't fit in the model's context."""


class VerifyError(TfmError):
    """`verify` found a result outside its error budget."""

    exit_code = 10
