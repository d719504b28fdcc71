"""Specify what the kernels compute, in NumPy and with the same bits.

This is the specification's forward pass, with the kernels' own versions of some ops.
"""

from .engine import KernelReference
from .ops import KERNEL_OPS

__all__ = ["KERNEL_OPS", "KernelReference"]
