"""What the kernels compute, in NumPy, to the bit: the one forward pass with a table of ops of their own."""

from .engine import KernelReference
from .ops import KERNEL_OPS

__all__ = ["KERNEL_OPS", "KernelReference"]
