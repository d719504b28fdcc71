"""Every error that tfm raises on purpose: one root, one exit code a class.

A message is one line: what must hold, what came, and the likely fix, naming the file and the field.
"""

from __future__ import annotations


class TfmError(Exception):
    """Root of all errors that a user can cause; `exit_code` is what `tfm-cli` leaves with."""

    exit_code = 1


class CheckpointError(TfmError):
    """A model file that can't be read: safetensors, GGUF, tokenizer, an unsafe path or format."""

    exit_code = 3


class ConfigError(TfmError):
    """A config that can't be, or a key that isn't known."""

    exit_code = 4


class BundleError(TfmError):
    """An exported model that is damaged, foreign, or made for another device."""

    exit_code = 5


class DeviceError(TfmError):
    """An execution provider that isn't there, or that fell back to another one."""

    exit_code = 6


class ExportError(TfmError):
    """An export that can't be done or can't be written, a full disk included."""

    exit_code = 7


class NumericError(TfmError):
    """NaN, infinity or overflow where a finite number must stand."""

    exit_code = 8


class LimitError(TfmError):
    """Too long, too large, over a bound."""

    exit_code = 9


class VerifyError(TfmError):
    """`verify` found something outside its budget."""

    exit_code = 10
