"""All errors that tfm raises on purpose. They have one base class, and each class has an exit code.

A message is one line. It names the file and the field, and says what must hold, what was found, and the
likely fix.
"""

from __future__ import annotations


class TfmError(Exception):
    """The base class of all errors that a user can cause. `exit_code` is the exit status of `tfm-cli`."""

    exit_code = 1


class ArgumentError(TfmError, TypeError):
    """An argument has a wrong type, or an option doesn't exist."""

    exit_code = 2


class CheckpointError(TfmError):
    """A model file, such as safetensors, GGUF or a tokenizer, can't be read, or its path or format isn't
    safe.
    """

    exit_code = 3


class ConfigError(TfmError):
    """A Config or config.json contradicts itself, or contains an unknown key."""

    exit_code = 4


class BundleError(TfmError):
    """An exported model is damaged, was not exported by tfm, or was made for another device."""

    exit_code = 5


class DeviceError(TfmError):
    """An execution provider of ONNX Runtime is missing or fell back to another provider."""

    exit_code = 6


class ExportError(TfmError):
    """An export is impossible, or can't be written, for example because the disk is full."""

    exit_code = 7


class NumericError(TfmError):
    """A number that must be finite is NaN or infinite, or overflows."""

    exit_code = 8


class LimitError(TfmError):
    """A text or a number exceeds its limit."""

    exit_code = 9


class ContextError(LimitError):
    """A text is longer than the model's context."""


class VerifyError(TfmError):
    """`verify` found a difference that is larger than its error budget."""

    exit_code = 10
