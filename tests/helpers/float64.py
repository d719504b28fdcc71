"""Models of other libraries with random weights, computed in float64 throughout."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = (torch.float32, torch.bfloat16)


class Float64(TorchFunctionMode):
    """Turns casts to float32 into casts to float64.

    transformers casts in norms, rotary tables and softmax, even after `.double()`. A float64 tensor says that
    its dtype is float32, since GPT-2 checks it. Whole numbers are divided in float64 too.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.float, torch.Tensor.bfloat16):
            return args[0].double()
        if func == torch.Tensor.div and not args[0].is_floating_point():
            args = (args[0].double(), *args[1:])
        if func is torch.tensor and isinstance(args[0], float):
            kwargs = {"dtype": torch.float64, **(kwargs or {})}
        if func == torch.Tensor.dtype.__get__ and args[0].dtype is torch.float64:
            return torch.float32
        args = [_widened(value) for value in args]
        return func(*args, **{key: _widened(value) for key, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    """float64 for a narrower dtype, any other value as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in NARROW else value


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model in float64 with random weights, norms and biases too."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.double().eval().parameters():
            drawn = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
            weight.copy_(drawn * 0.3 + 1 if weight.ndim == 1 else drawn * weight.shape[1] ** -0.5)
    return model


def in_float64(function: Any, *arguments: Any, **options: Any) -> Any:
    """The function's result, computed in float64."""
    with Float64(), torch.no_grad():
        return function(*arguments, **options)
