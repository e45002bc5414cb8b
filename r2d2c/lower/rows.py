"""A process's rows of a batch that several processes learn together.

What is drawn for the whole batch is drawn by each process, which keeps its rows; the statistics of `batch_norm` are those
of all rows. So the processes together compute what one would on the whole batch. For what couples samples see `shares`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from r2d2c.graph import Graph, Node, walk
from r2d2c.lower.gathering import Sum, enter, leave
from r2d2c.lower.init import Rng
from r2d2c.types import Dim

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BATCH = "B"


@dataclass(frozen=True, slots=True)
class Share:
    """Rows ``first`` to ``first + count`` of a batch that has ``total``. group: the processes; None: all there are."""

    first: int
    count: int
    total: int
    group: ProcessGroup | None = None

    @property
    def part(self) -> float:
        return self.count / self.total

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Its rows of a tensor ``[total·k, …]``."""
        each = tensor.shape[0] // self.total
        return tensor.narrow(0, self.first * each, self.count * each)


def places_of_rows(graph: Graph) -> frozenset[str]:
    """The nodes whose first axis counts samples, by what they are given."""
    found = set()
    for _, node in walk(graph):
        first = next((v for v in node.inputs if v is not None and v in graph.types), None)
        dims = graph.types[first].dims if first is not None else ()
        if dims and isinstance(dims[0], Dim) and BATCH in dims[0].symbols():
            found.add(node.id)
    return frozenset(found)


class RowsRng(Rng):
    """A generator for every (seed, node, step), that tells `RowsMode` whether the node draws for every sample."""

    __slots__ = ("mode",)

    def __init__(self, seed: int, step: int, mode: RowsMode, place: str = "") -> None:
        super().__init__(seed, step, place)
        self.mode = mode

    def generator(self, node: str, device: torch.device) -> torch.Generator:
        self.mode.sampled = node in self.mode.places
        return super().generator(node, device)

    def at(self, place: str) -> RowsRng:
        return RowsRng(self.seed, self.step, self.mode, f"{self.place}#{place}")


class RowsMode(TorchFunctionMode):
    """While it is active, draws are a share of the whole batch's, and `batch_norm` sees all rows.

    places: the nodes that draw for every sample.
    """

    def __init__(self, share: Share, places: frozenset[str]) -> None:
        super().__init__()
        self.share, self.places, self.sampled = share, places, False

    def __enter__(self) -> Any:
        enter(self.share)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        leave()

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None and self.sampled and args:
            return self._draw(func, args, kwargs)
        if func is torch.nn.functional.batch_norm and kwargs.get("training"):
            return _batch_norm(self.share, args[0], kwargs["weight"], kwargs["bias"], kwargs["eps"])
        if func is torch.var_mean and len(args) > 1 and 0 in args[1]:
            return _var_mean(self.share, args[0], list(args[1]), kwargs.get("correction", 1))
        return func(*args, **kwargs)

    def _draw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        share, (mine, *rest) = self.share, args
        each = mine.shape[0] // share.count
        whole = mine.new_full((share.total * each, *mine.shape[1:]), 0.5 if mine.is_floating_point() else 0)
        if func is torch.bernoulli:
            share.rows(whole).copy_(mine)
        drawn = share.rows(func(whole, *rest, **kwargs))
        if func in (torch.Tensor.random_, torch.Tensor.exponential_):
            mine.copy_(drawn)
            return mine
        return drawn.clone()


def _moments(share: Share, x: torch.Tensor, axes: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean, sum of squared deviations, and how many elements they are of, with all processes' rows."""
    count = x.numel() // max(1, share.count) * share.total
    for axis in range(x.dim()):
        if axis not in axes:
            count //= x.shape[axis]
    mean = Sum.apply(x.sum(axes), share) / count  # type: ignore[no-untyped-call]
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    spread = Sum.apply((x - mean.view(shape)).square().sum(axes), share)  # type: ignore[no-untyped-call]
    return mean, spread, count


def _batch_norm(
    share: Share, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    mean, spread, count = _moments(share, x, [axis for axis in range(x.dim()) if axis != 1])
    shape = [1, -1] + [1] * (x.dim() - 2)
    y = (x - mean.view(shape)) * torch.rsqrt(spread / count + eps).view(shape)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def _var_mean(
    share: Share, x: torch.Tensor, axes: list[int], correction: int
) -> tuple[torch.Tensor, torch.Tensor]:
    mean, spread, count = _moments(share, x, axes)
    return spread / max(count - correction, 0), mean


def written_by(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The storage that a learning pass itself writes: running statistics and what rules keep."""
    return tuple(dict.fromkeys(n.attrs["storage"] for n in nodes if n.op == "update" and n.inputs))


def drawing(
    share: Share | None, graph: Graph, step: int, cache: dict[Any, Any]
) -> tuple[Rng, RowsMode | None]:
    """Where random ops draw from in a pass, and what runs around its visits if it has a share of a batch."""
    if share is None:
        return Rng(graph.seed, step), None
    if "rows" not in cache:
        cache["rows"] = places_of_rows(graph)
    mode = RowsMode(share, cache["rows"])
    return RowsRng(graph.seed, step, mode), mode
