"""What the kernels compute, in NumPy, to the bit: the one forward pass, with the kernels' own versions of
some ops."""

from .engine import KernelReference
from .ops import KERNEL_OPS

__all__ = ["KERNEL_OPS", "KernelReference"]
