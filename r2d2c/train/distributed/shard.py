"""`ShardedStep`: an optimizer whose state is spread over the processes, by torch's ZeroRedundancyOptimizer.

Each process keeps the state of some of the parameters, steps these, and sends them to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r2d2c.train.checkpoint import Packed, check_state, pack_state, packed_state
from r2d2c.train.optimizers import OptimizerRecord

if TYPE_CHECKING:
    from torch import Tensor

_OF_THE_MACHINE = ("fused", "foreach")


class ShardedStep:
    """Named parameters with one optimizer, with the methods of a `FlatStep`. `pack` and `step` are for all at once."""

    def __init__(
        self, parameters: Mapping[str, Tensor], record: OptimizerRecord, arguments: Mapping[str, Any]
    ) -> None:
        import torch
        from torch.distributed.optim import ZeroRedundancyOptimizer

        self.parameters = dict(parameters)
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
        optimizer_class = getattr(torch.optim, record.torch_class)
        self.optimizer = ZeroRedundancyOptimizer(list(parameters.values()), optimizer_class, **given)

    def zero_grad(self) -> None:
        for tensor in self.parameters.values():
            tensor.grad = None

    def gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor in self.parameters.values() if tensor.grad is not None]

    def step(self) -> None:
        self.optimizer.step()

    def state(self) -> dict[str, dict[str, Any]]:
        """The state that this process keeps, by name."""
        kept = self.optimizer.optim.state
        return {name: dict(kept[p]) for name, p in self.parameters.items() if kept.get(p)}

    def pack(self) -> Packed:
        """The whole state in the first process, as a plain optimizer's; nothing in the others."""
        import torch.distributed as dist

        self.optimizer.consolidate_state_dict(to=0)
        if dist.get_rank():
            return Packed()
        found = self.optimizer.state_dict()
        names = list(self.parameters)
        state = {names[number]: values for number, values in sorted(found["state"].items())}
        groups = [{**group, "params": [names[k] for k in group["params"]]} for group in found["param_groups"]]
        return pack_state(state, groups)

    def unpack(self, packed: Packed) -> None:
        """Take over a whole state; each process keeps its part. E521 if it is of other parameters."""
        state = packed_state(packed)
        check_state(state, self.parameters)
        names = list(self.parameters)
        found = self.optimizer.param_groups[0]
        (stored,) = packed.scalars["groups"]
        kept = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in stored.items()
            if k not in ("params", *_OF_THE_MACHINE)
        }
        group = {k: v for k, v in found.items() if k != "params"} | kept | {"params": list(range(len(names)))}
        by_number = {names.index(name): dict(values) for name, values in state.items()}
        self.optimizer.load_state_dict({"state": by_number, "param_groups": [group]})
