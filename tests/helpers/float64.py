"""Others' models with random weights, computed wholly in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = (torch.float32, torch.bfloat16)


class Float64(TorchFunctionMode):
    """transformers casts to float32 in norms, rotary tables and softmax, even after `.double()`; here
    each such cast is one to float64. Who asks for a tensor's type is told float32, as GPT-2 checks it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.float, torch.Tensor.bfloat16):
            return args[0].double()
        if func is torch.tensor and isinstance(args[0], float):
            kwargs = {"dtype": torch.float64, **(kwargs or {})}
        if func == torch.Tensor.dtype.__get__ and args[0].dtype is torch.float64:
            return torch.float32
        swap = lambda value: torch.float64 if any(value is kind for kind in NARROW) else value  # noqa: E731
        return func(*map(swap, args), **{key: swap(value) for key, value in (kwargs or {}).items()})


def random(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model in float64, all of its weights random: norms and biases too."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.double().eval().parameters():
            drawn = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
            weight.copy_(drawn * 0.3 + 1 if weight.ndim == 1 else drawn * weight.shape[1] ** -0.5)
    return model


def exactly(call: Any, *given: Any, **more: Any) -> Any:
    """What the call gives in float64."""
    with Float64(), torch.no_grad():
        return call(*given, **more)
