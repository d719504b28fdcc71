"""Compute the plan of a bundle's weights, on which an export, its graphs, the manifest and every check agree.

    Config, target, type of floats, format of each quantized parameter   ->   Plan
    Plan   ->   groups of parameters, places of tensors in both data files, the kind of cache, the kernels

An export makes the plan, and the manifest stores the values that determine it. Code that needs a value
derived from the plan, such as the place of a tensor, asks the plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from ...refimpl.config import Config, SmoothingSite
from ...refimpl.engine.cache_kinds import Halved
from ...refimpl.params.parameter_shapes import ParameterShapes
from . import kernel_storage, operator_limits, schemes, weight_formats, weight_storage
from .graph_io import Graph, graphs
from .kernel_storage import KernelForm
from .schemes import Scheme
from .targets import CacheForm, FloatType, Target
from .weight_formats import NativeBlocks, WeightFormat
from .weight_storage import Group, Spec


@dataclass(frozen=True)
class Tensor:
    """The type and shape of a stored tensor, and its offset and length in bytes in its data file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Plan:
    """The plan of how a bundle stores a model's weights.

    - `shapes`: the shape of each parameter, and the model's Config.
    - `target`: the target of the bundle's graphs.
    - `dtype`: the type of all floats.
    - `formats`: the format of each quantized parameter. A parameter without a format is stored as floats.
    """

    shapes: ParameterShapes
    target: Target
    dtype: FloatType
    formats: Mapping[str, WeightFormat]

    @staticmethod
    def of(
        shapes: ParameterShapes,
        scheme: Scheme,
        target: Target,
        native: NativeBlocks = lambda name, most: None,
    ) -> Plan:
        """Return the plan that a scheme and a target give for these parameters. `weight_formats.formats`
        explains `native`.
        """
        formats = weight_formats.formats(shapes, scheme, target, native)
        return Plan(shapes, target, schemes.float_type(scheme, target), formats)

    @property
    def config(self) -> Config:
        return self.shapes.config

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The groups of parameters that are stored together, by name, in the order of the file."""
        return weight_storage.stored(self.shapes, self.formats, self.target)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The type, shape and place of each tensor in model.onnx.data, by name."""
        return _arranged(self.groups, self.dtype, weight_storage.specs)

    @property
    def size(self) -> int:
        """The size of model.onnx.data in bytes."""
        return end(self.tensors)

    def read_size(self, forms: Mapping[str, KernelForm]) -> int:
        """Return how many bytes of weights one decode step reads: all of kernels.data if the bundle has
        graphs over tfm's kernels, else all of model.onnx.data.

        `forms` gives the kernels' forms of groups by name.
        """
        return end(self.kernel_tensors(forms)) if self.has_kernels else self.size

    @cached_property
    def units(self) -> dict[str, tuple[str, ...]]:
        """The units of quantized weights: a dict from a unit's name to the names of its parameters. All
        parameters of a unit must have the same format.

        Parameters must have the same format if they are stored as one tensor, or if they are the experts
        of one layer.
        """
        units: dict[str, tuple[str, ...]] = {}
        for group in weight_storage.stored(self.shapes, {}, self.target).values():
            if leaves := tuple(leaf for leaf in group.leaves if leaf in self.formats):
                name = re.sub(r"\.experts\.\d+\.", ".experts.", group.name)
                units[name] = (*units.get(name, ()), *leaves)
        return units

    def groups_of(self, leaves: Iterable[str]) -> dict[str, Group]:
        """Return only the groups that store these parameters."""
        return weight_storage.stored({name: self.shapes[name] for name in leaves}, self.formats, self.target)

    def read_bytes(self, leaves: Iterable[str], forms: Mapping[str, KernelForm]) -> int:
        """Return how many bytes of `read_size` belong to these parameters, without the padding between
        tensors.
        """
        arranged = partial(kernel_storage.specs, forms=forms) if self.has_kernels else weight_storage.specs
        specs = (arranged(group, self.dtype) for group in self.groups_of(leaves).values())
        return sum(spec.length for one in specs for spec in one.values())

    @cached_property
    def smoothable(self) -> tuple[SmoothingSite, ...]:
        """The places where an export may smooth activations without changing the model's results in exact
        arithmetic.

        All products that read these activations round their inputs to 8-bit codes, and none of their
        parameters keeps the blocks of the checkpoint's file.
        """

        def fits(name: str) -> bool:
            form = self.formats.get(name)
            return form is None or (form.bits == 8 and form.activations != "none" and not form.native)

        return tuple(
            site
            for site in self.shapes.smoothing_sites
            if all(map(fits, site.leaves)) and any(name in self.formats for name in site.leaves)
        )

    @property
    def divided(self) -> tuple[SmoothingSite, ...]:
        """The places where each product divides the smoothed activations itself, because a residual sum reads
        the same activations undivided.
        """
        smoothed = {name for name, form in self.formats.items() if form.activations == "smoothed"}
        return tuple(site for site in self.shapes.post_norm_sites if smoothed.intersection(site.consumers))

    @cached_property
    def cache(self) -> CacheForm:
        """How a bundle of this plan keeps a decoder's keys and values: "shared", "windowed", "copied" or
        "none".
        """
        return operator_limits.cache(self.target, self.config)

    @cached_property
    def has_kernels(self) -> bool:
        """True if the bundle has graphs over tfm's own kernels. These graphs need the target ort-cpu and
        weights in 4 or 8 bits.
        """
        return self.target.name == "ort-cpu" and any(map(kernel_storage.is_tiled, self.groups.values()))

    @property
    def has_minima(self) -> bool:
        """True if tfm's kernels add minima to the weights of some blocks."""
        tiled = (group.format for group in self.groups.values() if kernel_storage.is_tiled(group))
        return self.has_kernels and any(form is not None and form.minimum for form in tiled)

    def graphs(self, cache: CacheForm) -> tuple[Graph, ...]:
        """Return the graphs over the target's operators, for this kind of cache."""
        lengths = self.target.row_lengths and cache in ("shared", "windowed")
        return graphs(self.config, cache == "windowed", row_lengths=lengths)

    @property
    def kernel_graphs(self) -> list[str]:
        """The names of the files with graphs over tfm's kernels that a bundle of this plan may contain."""
        if not self.has_kernels:
            return []
        return [kernel_storage.GRAPHS[graph.file] for graph in graphs(self.config)]

    def may_halve(self, cache: CacheForm) -> Halved:
        """Return which keys and values graphs over tfm's kernels may keep in float16. This needs a shared or
        windowed cache of floats. Merged attention reads an encoder's keys and values as float32.
        """
        if not self.has_kernels or cache not in ("shared", "windowed") or self.config.rounds_cache:
            return ""
        reads = [layer for layer in self.config.layers if layer.cross is not None]
        return "all" if reads and not any(layer.merged for layer in reads) else "cache"

    def kernel_tensors(self, forms: Mapping[str, KernelForm]) -> dict[str, Tensor]:
        """Return the type, shape and place of each tensor in kernels.data, by name. `forms` gives the
        kernels' forms of groups.
        """
        specs = partial(kernel_storage.specs, forms=forms)
        return _arranged(self.groups, self.dtype, specs)


def end(tensors: Mapping[str, Tensor]) -> int:
    """Return the size in bytes of the file that contains these tensors."""
    return max(tensor.offset + tensor.length for tensor in tensors.values())


def _arranged(
    groups: Mapping[str, Group], dtype: str, specs: Callable[[Group, str], dict[str, Spec]]
) -> dict[str, Tensor]:
    """Return the places of the tensors of all groups. A large tensor begins at a page, so that it can be
    mapped alone."""
    placed: dict[str, Tensor] = {}
    at = 0
    for group in groups.values():
        for name, spec in specs(group, dtype).items():
            at += -at % (4096 if spec.length >= 2**20 else 64)
            placed[name] = Tensor(spec.dtype, spec.shape, at, spec.length)
            at += spec.length
    return placed
