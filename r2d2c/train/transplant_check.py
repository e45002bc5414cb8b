"""Whether a model that goes on from another one still computes the same: both run, and what both have is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from r2d2c.graph import Graph, Port, Value
from r2d2c.train.transplant_axes import Doubt, plain, renamed
from r2d2c.train.transplant_ops import find_axes
from r2d2c.train.transplant_report import Compared
from r2d2c.train.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.transplant import Plan


def compare(plan: Plan, model: Model, batch: Mapping[str, Tensor]) -> tuple[Compared, ...]:
    """Every output that both models have, on the same samples, as the models are used.

    batch: the new model's inputs. The old model gets those that it has, and of inputs with more columns its own.
    """
    from r2d2c.model import Model as Compiled

    old = Compiled(plan.old)
    old = old.to(model._float) if model._float is not torch.float32 else old
    load_weights(old, plan.checkpoint.model)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    old = old.to(device)
    compared = _Compared(plan, model._inference_graph, old._inference_graph)
    shown = [port for port in compared.new.body.outputs if port.name not in compared.new.hidden]
    both = [port for port in shown if renamed(port.name, plan.names) in compared.theirs]
    try:
        compared.check_inputs()
        given, narrowed = compared.batches(batch)
        with torch.no_grad():
            now, before = model(**given), compared.run(old, narrowed)
    except _UnknownError as unknown:
        return tuple(Compared(port.name, skipped=str(unknown)) for port in both)
    return tuple(
        compared.output(port, now[port.name], before[renamed(port.name, plan.names)]) for port in both
    )


class _Compared:
    """Two inference graphs, and where the entries of the old one's values are in the new one's."""

    def __init__(self, plan: Plan, new: Graph, old: Graph) -> None:
        self.plan, self.new, self.old = plan, new, old
        self.axes = find_axes(old, new, plan.axes.ops, plan.names)
        self.theirs = {port.name: port.value for port in old.body.outputs if port.name not in old.hidden}
        self.inputs = [port for port in old.body.inputs if port.name not in old.hidden]
        self.ours = {renamed(p.name, plan.names): p for p in new.body.inputs if p.name not in new.hidden}

    def check_inputs(self) -> None:
        """Raises `_UnknownError` for inputs that the old model needs and cannot have."""
        for port in self.inputs:
            if port.name not in self.ours:
                raise _UnknownError(f"the run's model reads `{port.name}`, and the spec has no such input")
            was, now = self.old.types[port.value], self.new.types[self.ours[port.name].value]
            if was.rank != now.rank or was.floating != now.floating:
                raise _UnknownError(f"`{port.name}` is {was} in the run and {now} in the spec")

    def run(self, old: Model, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The old model's outputs; `_UnknownError` for samples that its spec does not allow, such as longer ones."""
        try:
            found: dict[str, Tensor] = old(**given)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise _UnknownError(f"the run's model does not take these samples: {error}") from error
        return found

    def batches(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The inputs of the new model, and of the old one."""
        given = {port.name: batch[port.name] for port in self.ours.values()}
        narrowed: dict[str, Tensor] = {}
        for port in self.inputs:
            mine = self.ours[port.name]
            tensor = given[mine.name]
            bound = plain(self.old.bounds.get(port.value))
            if bound is not None and not tensor.is_floating_point():
                # Classes and tokens that the run did not know mean nothing to its model.
                tensor = given[mine.name] = tensor.clamp(max=bound - 1)
            narrowed[port.name] = self.narrow(tensor, mine.value)
        return given, narrowed

    def narrow(self, tensor: Tensor, value: Value) -> Tensor:
        """The entries that the old value has. Raises `_UnknownError` where that cannot be known."""
        for axis in range(tensor.ndim):
            var = self.axes.pairs.var(value, axis)
            if var is None:
                continue
            places = self.axes.system.places(var)
            if isinstance(places, Doubt):
                raise _UnknownError(places.what)
            tensor = tensor.index_select(axis, torch.from_numpy(places).to(tensor.device))
        return tensor

    def output(self, port: Port, now: Tensor, before: Tensor) -> Compared:
        try:
            mine = self.narrow(now, port.value)
        except _UnknownError as unknown:
            return Compared(port.name, skipped=str(unknown))
        if mine.shape != before.shape:
            shapes = f"it is {list(before.shape)} in the run and {list(now.shape)} in the spec"
            return Compared(port.name, skipped=shapes)
        if not len(mine):
            return Compared(port.name, skipped="there are no samples")
        one, other = mine.double(), before.double()
        # Equal infinities differ by nothing.
        apart = torch.where(one == other, 0.0, one - other).abs()
        difference = (
            float(apart.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if apart.numel() else 0.0
        )
        scale = float(other.abs().nan_to_num(0.0, 0.0, 0.0).max()) if other.numel() else 0.0
        found = Compared(port.name, len(mine), difference, scale)
        return found if found.same else Compared(port.name, len(mine), difference, scale, self.why())

    def why(self) -> tuple[str, ...]:
        mixed = [one.what for one in self.axes.mixed]
        more = [f"and {len(mixed) - 3} more"] if len(mixed) > 3 else []
        return (*mixed[:3], *more)


class _UnknownError(Exception):
    """Nobody can say which entries are the old ones."""
