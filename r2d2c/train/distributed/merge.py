"""Optimizers of tasks in several processes: each steps what is its own, and a checkpoint has them all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r2d2c.train.checkpoint import Packed

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.train.stepper import Stepper


class _Elsewhere:
    """Parameters that another process steps, with the methods of a `FlatStep`. inner: what would step them here."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.parameters, self.optimizer = inner, inner.parameters, inner.optimizer

    def zero_grad(self) -> None:
        pass

    def gradients(self) -> list[Tensor]:
        return []

    def step(self) -> None:
        pass

    def state(self) -> dict[str, dict[str, Any]]:
        return {}

    def pack(self) -> Packed:
        return Packed()

    def unpack(self, packed: Packed) -> None:
        pass


def absent(stepper: Stepper, mine: Collection[str]) -> None:
    """Leave groups of parameters alone of which none is ours. One that is ours in part is stepped as a whole."""
    new: dict[int, Any] = {}
    for group, step in zip(stepper.groups, stepper._steps, strict=True):
        ours = not hasattr(step, "optimizer") or any(name in mine for name in group.names)
        new[id(step)] = step if ours else _Elsewhere(step)
    stepper._steps[:] = [new[id(step)] for step in stepper._steps]
    for due in stepper._at.values():
        due[:] = [(new[id(step)], large) for step, large in due]
    for clips in stepper._clips.values():
        for steps in clips.values():
            steps[:] = [new[id(step)] for step in steps]


def merge(packs: Sequence[Mapping[str, Packed]], owner: Mapping[str, int]) -> dict[str, Packed]:
    """The states of all optimizers, each parameter's from the process that owns it."""
    merged: dict[str, Packed] = {}
    for key in dict.fromkeys(key for pack in packs for key in pack):
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        names: set[str] = set()
        groups: Any = None
        for rank, pack in enumerate(packs):
            packed = pack.get(key)
            if packed is None or "names" not in packed.scalars:
                continue
            groups = groups or packed.scalars["groups"]
            for path, tensor in packed.tensors.items():
                name = path.rpartition("/")[0]
                if owner.get(name, rank) == rank:
                    tensors.setdefault(path, tensor)
            for name, values in packed.scalars["state"].items():
                if owner.get(name, rank) == rank:
                    states[name] = values
            names |= {name for name in packed.scalars["names"] if owner.get(name, rank) == rank}
        if groups is None:
            merged[key] = Packed()
        else:
            merged[key] = Packed(tensors, {"groups": groups, "state": states, "names": sorted(names)})
    return merged
