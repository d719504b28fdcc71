"""Find the parameters that an adapter changes, from the names of the adapter's tensors and a family's weight
map.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ...config import LM, Config, MaskedLM
from ...errors import CheckpointError
from ...params.parameter_shapes import ParameterShapes
from ...params.shapes import ADDED
from ..formats.adapters.name_patterns import Work
from ..formats.adapters.settings import LoraSettings
from ..formats.adapters.tensors import AdapterTensors, LowRank
from .loader import leaf_parts
from .merge import INPUT_TABLE, OUTPUT_TABLE, Change
from .weight_map import Rule, WeightMap


class AdapterMap:
    """The changes that an adapter makes to the parameters of a Config.

    `changes` maps the name of each changed parameter to its change. `shapes` are the shapes of all parameters
    of the changed model. Raises CheckpointError for a tensor that belongs to no parameter, has a wrong shape,
    or contradicts adapter_config.json.
    """

    def __init__(
        self,
        config: Config,
        weights: WeightMap,
        prefixes: Sequence[str],
        settings: LoraSettings,
        tensors: AdapterTensors,
    ) -> None:
        self._settings, self._tensors, self._prefixes = settings, tensors, prefixes
        self._work = Work("adapter_config.json")
        self._rules = [rule for rule in weights.rules(config) if rule.use != "unused"]
        self.shapes = ParameterShapes(self._untied(config))
        self._readers: dict[str, list[Rule]] = {}
        for rule in self._rules:
            if rule.use == "read" and any(leaf in self.shapes for leaf in rule.leaves):
                for names in rule.choices:
                    self._readers.setdefault(names[0], []).append(rule)
        self.changes: dict[str, Change] = {}
        for name, tensor in tensors.replaced.items():
            for rule in self._readers_of(name):
                self._replace(rule, tensor)
        if self.shapes.config != config:
            self._replace_shared()
        for update in tensors.updates.values():
            for rule in self._readers_of(f"{update.module}.weight"):
                self._update(rule, update)

    def _stripped(self, name: str) -> str:
        """Return a tensor's name without the prefix that a checkpoint writes before the names of the
        backbone.
        """
        return name.removeprefix(next(filter(name.startswith, self._prefixes), ""))

    def _readers_of(self, name: str) -> list[Rule]:
        rules = self._readers.get(self._stripped(name), [])
        if not rules or any(rule.stacked or rule.joined or rule.part is not None for rule in rules):
            raise CheckpointError(
                f"the adapter's {name!r:.120} must belong to a weight that the base model uses"
            )
        if any(rule.tied for rule in rules):
            raise CheckpointError(
                f"the adapter's {name!r:.120} must belong to one layer, but several layers share the weight"
            )
        return rules

    def _names(self, leaf: str, use: str = "read") -> set[str]:
        """Return the names of the tensors from which a checkpoint's parameter is read. If `use` is "compare",
        return the names of the tensors that repeat the parameter.
        """
        rules = [rule for rule in self._rules if rule.use == use and rule.leaves[0] == leaf]
        return {names[0] for rule in rules for names in rule.choices}

    def _touched(self, names: Collection[str]) -> list[str]:
        """Return the names, as the adapter writes them, of the weights among `names` that the adapter
        replaces or updates.
        """
        touched = [*self._tensors.replaced, *(f"{module}.weight" for module in self._tensors.updates)]
        return [name for name in touched if self._stripped(name) in names]

    def _replaces_one_use(self, name: str) -> bool:
        """Return whether a tensor replaces the weight of one module only. False means that the tensor
        replaces a weight that several modules share.
        """
        return self._settings.saves(name.rpartition(".")[0]) and name not in self._tensors.of_base_layers

    def _untied(self, config: Config) -> Config:
        """Return the Config with a separate output table if the adapter changes only one use of a table that
        input and output share.

        peft wraps the module of one use and doesn't change the module of the other use, unless
        `ensure_weight_tying` says that the output follows. A tensor that is neither an update nor in
        `modules_to_save` replaces the shared table. Raises CheckpointError if the adapter changes a table
        that the encoder and the decoder share.
        """
        inputs, outputs = self._names(INPUT_TABLE), self._names(OUTPUT_TABLE)
        copies = self._names(INPUT_TABLE, "compare") - outputs
        if copies and (touched := self._touched(inputs | copies)):
            raise CheckpointError(
                f"the adapter's {touched[0]!r:.120} can't change the token table, because the encoder and "
                "the decoder share this table"
            )
        head = config.head
        if not isinstance(head, LM | MaskedLM) or not head.tied:
            return config
        of_input = [
            name
            for name in self._touched(inputs)
            if name.removesuffix(".weight") in self._tensors.updates or self._replaces_one_use(name)
        ]
        if self._touched(outputs) or (of_input and not self._settings.keeps_ties):
            return replace(config, head=replace(head, tied=False))
        return config

    def _replace(self, rule: Rule, tensor: str) -> None:
        allowed, parts = leaf_parts(rule, self.shapes)
        if (shape := self._tensors.shape(tensor)) not in allowed:
            raise CheckpointError(
                f"the adapter's {tensor!r:.120} must have shape {list(allowed[0])}, but it has {list(shape)}"
            )
        for leaf, split in parts:
            if leaf in self.changes:
                raise CheckpointError(f"the adapter's {tensor!r:.120} must be the only tensor for {leaf}")
            self.changes[leaf] = Change(rule.steps, split, tensor)

    def _replace_shared(self) -> None:
        """Let a tensor that replaces the shared table replace the output table too, because the adapter
        separates the two tables.
        """
        for name, tensor in self._tensors.replaced.items():
            is_input = self._stripped(name) in self._names(INPUT_TABLE)
            if is_input and not self._replaces_one_use(name) and OUTPUT_TABLE not in self.changes:
                self.changes[OUTPUT_TABLE] = Change((), None, tensor)

    def _update(self, rule: Rule, update: LowRank) -> None:
        self._check_settings(update)
        _, parts = leaf_parts(rule, self.shapes)
        sizes = [self.shapes[leaf] for leaf, _ in parts]
        is_table = rule.leaves[0] == INPUT_TABLE or rule.leaves[0].endswith(ADDED)
        if any(len(size) != 2 for size in sizes) or update.of_table != is_table:
            raise CheckpointError(
                f"the adapter's {update.down!r:.120} must belong to a "
                f"{'table' if update.of_table else 'linear map'}, but it belongs to {rule.leaves[0]}"
            )
        inputs, outputs = sizes[0][0], sum(size[1] for size in sizes)
        if rule.leaves[0] == OUTPUT_TABLE:
            inputs, outputs = outputs, inputs
        got = self._tensors.shape(update.down)[1], self._tensors.shape(update.up)[0]
        if got != (inputs, outputs):
            raise CheckpointError(
                f"the adapter's update of {update.module!r:.120} must have {inputs} inputs and {outputs} "
                f"outputs, but it has {got[0]} inputs and {got[1]} outputs"
            )
        scale = self._settings.scale_of(update.module, self._work)
        for leaf, split in parts:
            change = self.changes.get(leaf, Change(rule.steps, split))
            if change.update is not None:
                raise CheckpointError(
                    f"the adapter must have one update of {leaf}, but it has two: {update.module!r:.120}"
                )
            self.changes[leaf] = replace(change, update=update, scale=scale, steps=rule.steps, split=split)

    def _check_settings(self, update: LowRank) -> None:
        """Raise CheckpointError if adapter_config.json contradicts the tensors of a module: it doesn't name
        the module, or its rank or its use of DoRA differs.
        """
        settings, module = self._settings, update.module
        # With `ensure_weight_tying` peft adapts the output too, without naming it.
        follows = settings.keeps_ties and self._stripped(f"{module}.weight") in self._names(OUTPUT_TABLE)
        if not follows and not settings.adapts(module, self._work):
            raise CheckpointError(
                f"{module!r:.120} isn't an adapted module according to adapter_config.json, but the adapter "
                "has tensors for this module"
            )
        rank, wanted = self._tensors.shape(update.down)[0], settings.rank_of(module, self._work)
        if rank != wanted:
            raise CheckpointError(
                f"the adapter's {update.down!r:.120} must have rank {wanted}, but it has {rank}"
            )
        if settings.dora != (update.magnitude is not None):
            raise CheckpointError(
                f"{module!r:.120} must have a lora_magnitude_vector if and only if use_dora is true: "
                f"use_dora is {str(settings.dora).lower()}"
            )
