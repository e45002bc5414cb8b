"""Running a loop until its samples halt: adaptive computation time.

Graves, Adaptive Computation Time for Recurrent Neural Networks, 2016. With h_n the halting probability that step n gives
for a sample, the sample takes N steps, the first N with h_1 + … + h_N >= 1 - epsilon, or as many as there may be. The
weights of its steps are h_1 … h_{N-1} and the remainder R = 1 - h_1 - … - h_{N-1}: `mean` is the mean of a value with
them, `count` is N, and `ponder` is N + R, in which N is a constant for learning. A bool halts at once, with weight 1.

A step is run for the samples that have not halted, and for no other. So a sample keeps the values of its last step to
the last bit, nothing that would have come after it, NaN included, reaches a value or a gradient, and what is
saved is time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from r2d2c.loops import Loop

if TYPE_CHECKING:
    from r2d2c.lower.init import Rng
    from r2d2c.lower.loops import LoopCall

Tensors = tuple[Any, ...]


# In the place of an axis of samples: this argument is the number of samples.
COUNT = -1


@dataclass(slots=True)
class _Halted:
    """The values of samples, put down as they halt: pieces of a batch that is whole at the end.

    rows: where in the batch the samples of each piece stand.
    """

    rows: list[torch.Tensor] = field(default_factory=list)
    pieces: dict[object, list[torch.Tensor]] = field(default_factory=dict)

    def add(self, key: object, piece: torch.Tensor) -> None:
        self.pieces.setdefault(key, []).append(piece)

    def whole(self, key: object) -> torch.Tensor:
        """All of them, in the order of the batch."""
        pieces = self.pieces[key]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces).index_select(0, self.order)

    @property
    def order(self) -> torch.Tensor:
        return torch.cat(self.rows).argsort()


def run_until(
    call: LoopCall,
    most: int,
    carries: Tensors,
    elements: Sequence[Tensors],
    rest: Tensors,
    rng: Rng | None,
) -> Tensors:
    """Step until every sample has halted, ``most`` times at the most; what the loop gives."""
    loop, halt, count = call.loop, call.loop.halt, len(call.loop.carries)
    assert halt is not None
    last, every, means = (_ports(loop, *kinds) for kinds in (("last", "steps"), ("steps",), ("mean",)))
    halted = _Halted()
    history: list[tuple[torch.Tensor | None, dict[int, torch.Tensor]]] = []
    sums: dict[int, torch.Tensor] = {}
    total: torch.Tensor | None = None
    rows: torch.Tensor | None = (
        None  # where in the batch the samples stand that run; None while all of them do
    )
    for number in range(most):
        outputs = call.run_step(number, most, carries, [e[number] for e in elements], rest, rng)
        says = outputs[halt.port]
        h = says if says.is_floating_point() else says.to(call.default)
        total = _zeros(h) if total is None else total
        left, summed = 1.0 - total, total + h
        stops = summed >= 1.0 - halt.epsilon if number < most - 1 else torch.ones_like(says, dtype=torch.bool)
        for port in means:
            part = _weighted(outputs[port], torch.where(stops, left, h), says)
            sums[port] = part if number == 0 or not says.is_floating_point() else sums[port] + part
        history.append((rows, {port: outputs[port] for port in every}))
        carries, total = outputs[:count], summed
        done, going = stops.nonzero().squeeze(1), (~stops).nonzero().squeeze(1)
        if not len(done) and len(going):
            continue
        halted.rows.append(_rows(rows, done))
        halted.add("count", torch.full_like(done, number + 1))
        halted.add("remainder", _pick(left, done))
        for port in last:
            halted.add(port, _pick(outputs[port], done))
        for port, value in sums.items():
            halted.add(("mean", port), _pick(value, done))
        if not len(going):
            break
        rows, total = _rows(rows, going), _pick(total, going)
        sums = {port: _pick(value, going) for port, value in sums.items()}
        axes = call.samples
        carries = tuple(_narrow(v, axis, going) for v, axis in zip(carries, axes[:count], strict=True))
        after = axes[count + loop.sequences :]
        rest = tuple(_narrow(v, axis, going) for v, axis in zip(rest, after, strict=True))
    found: list[Any] = []
    for position, given in enumerate(loop.gives):
        if given.kind == "last":
            found.append(halted.whole(given.port))
        elif given.kind == "steps":
            values = _every(halted.whole(given.port), given.port, history, most)
            found.append(call.stack(given, values, position))
        elif given.kind == "mean":
            found.append(halted.whole(("mean", given.port)))
        elif given.kind == "count":
            found.append(halted.whole("count"))
        else:
            remainder = halted.whole("remainder")
            found.append(halted.whole("count").to(remainder.dtype) + remainder)
    return tuple(found)


def _ports(loop: Loop, *kinds: str) -> list[int]:
    """The outputs of a step of which the loop gives something of these kinds."""
    return sorted({given.port for given in loop.gives if given.kind in kinds})


def _zeros(h: torch.Tensor) -> torch.Tensor:
    """Zeros that hang on the first probability, so that where all samples halt at once a gradient is 0, not missing."""
    zeros = torch.zeros_like(h)
    return torch.where(torch.zeros_like(h, dtype=torch.bool), h, zeros) if h.requires_grad else zeros


def _weighted(value: torch.Tensor, weight: torch.Tensor, says: torch.Tensor) -> torch.Tensor:
    """A step's part of the mean. Of a bool, the last step has all the weight."""
    if not value.is_floating_point():
        value = value.to(weight.dtype)
    if not says.is_floating_point():
        return value
    weight = weight.to(value.dtype)
    return weight.reshape(weight.shape + (1,) * (value.dim() - 1)) * value


def _pick(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return value if len(index) == len(value) else value.index_select(0, index)


def _rows(rows: torch.Tensor | None, index: torch.Tensor) -> torch.Tensor:
    return index if rows is None else rows.index_select(0, index)


def _narrow(value: Any, axis: int | None, index: torch.Tensor) -> Any:
    """An argument of the step, for the samples that go on."""
    if axis is None:
        return value
    return len(index) if axis == COUNT else value.index_select(axis, index)


def _every(
    final: torch.Tensor,
    port: int,
    history: list[tuple[torch.Tensor | None, dict[int, torch.Tensor]]],
    most: int,
) -> list[torch.Tensor]:
    """A value at every step: once a sample has halted, that of its last one."""
    found = []
    for rows, values in history:
        found.append(values[port] if rows is None else final.index_copy(0, rows, values[port]))
    return found + [final] * (most - len(found))
