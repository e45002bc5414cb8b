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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Tensors = tuple[Any, ...]
History = list[tuple[torch.Tensor | None, dict[int, torch.Tensor]]]


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
    step: Callable[..., Tensors],
    most: int,
    carries: Tensors,
    elements: Sequence[Tensors],
    rest: Tensors,
    gives: Sequence[tuple[str, int]],
    halt: int,
    epsilon: float,
    samples: Sequence[int | None],
    stacks: Sequence[int],
    default: torch.dtype,
) -> Tensors:
    """Step until every sample has halted, ``most`` times at the most; what the loop gives.

    step: ``(number, carries, elements, rest)`` to the next carries and its other outputs, of which ``halt`` halts.
    gives: by kind, of which output of a step. samples: of every argument of a step, the axis of samples, if it has one.
    stacks: of all that is given, the axis of steps. default: the dtype of means of what is no float.
    """
    count = len(carries)
    last, every, means = (_ports(gives, *kinds) for kinds in (("last", "steps"), ("steps",), ("mean",)))
    halted = _Halted()
    history: History = []
    sums: dict[int, torch.Tensor] = {}
    total: torch.Tensor | None = None
    # Where in the batch the samples stand that run; None while all of them do.
    rows: torch.Tensor | None = None
    for number in range(most):
        outputs = step(number, carries, [e[number] for e in elements], rest)
        says = outputs[halt]
        h = says if says.is_floating_point() else says.to(default)
        total = _zeros(h) if total is None else total
        left, summed = 1.0 - total, total + h
        stops = summed >= 1.0 - epsilon if number < most - 1 else torch.ones_like(says, dtype=torch.bool)
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
        carries = tuple(_narrow(v, axis, going) for v, axis in zip(carries, samples[:count], strict=True))
        after = samples[count + len(elements) :]
        rest = tuple(_narrow(v, axis, going) for v, axis in zip(rest, after, strict=True))
    found: list[Any] = []
    for (kind, port), axis in zip(gives, stacks, strict=True):
        if kind == "last":
            found.append(halted.whole(port))
        elif kind == "steps":
            found.append(torch.stack(_every(halted.whole(port), port, history, most), axis))
        elif kind == "mean":
            found.append(halted.whole(("mean", port)))
        elif kind == "count":
            found.append(halted.whole("count"))
        else:
            remainder = halted.whole("remainder")
            found.append(halted.whole("count").to(remainder.dtype) + remainder)
    return tuple(found)


def _ports(gives: Sequence[tuple[str, int]], *kinds: str) -> list[int]:
    """The outputs of a step of which the loop gives something of these kinds."""
    return sorted({port for kind, port in gives if kind in kinds})


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


def _every(final: torch.Tensor, port: int, history: History, most: int) -> list[torch.Tensor]:
    """A value at every step: once a sample has halted, that of its last one."""
    found = []
    for rows, values in history:
        found.append(values[port] if rows is None else final.index_copy(0, rows, values[port]))
    return found + [final] * (most - len(found))
