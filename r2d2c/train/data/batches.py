"""`from_batches`: any Python iterable of batches as a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.bind import BoundData
from r2d2c.train.data.convert import (
    DTYPES,
    as_tensor,
    convert,
    find_bad_value,
    kind_fits,
    shape_fits,
    tensor_kind,
)
from r2d2c.train.data.source import Port
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Batches = Iterable[Any] | Callable[..., Iterable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class BatchStream:
    """Iterables of batches by split, not yet bound to ports. ``names`` says what the items of a tuple are."""

    splits: Mapping[str, Batches]
    names: tuple[str, ...] | None = None

    def bind(self, ports: Mapping[str, Port], bounds: Mapping[str, int] | None = None) -> BoundData:
        """As `r2d2c.train.data.bind.bind`; the batches are checked as they come (E514), one after another."""
        splits = {
            split: StreamSplit(split, batches, dict(ports), dict(bounds or {}), self.names)
            for split, batches in self.splits.items()
        }
        return BoundData("batches", splits)


def from_batches(
    train: Batches,
    validation: Batches | None = None,
    test: Batches | None = None,
    *,
    names: Sequence[str] | None = None,
) -> BatchStream:
    """Batches from Python: iterables that can be run through again, or functions that give new ones.

    A batch is a mapping from port to tensor, array or nested list ``[B, ...]``; or a tuple, if ``names`` says
    what its items are (``from_batches(loader, names=("x", "y"))``). A function with a parameter gets the
    number of the epoch: one that is deterministic in it makes a resumed run exact.
    """
    given = {"train": train, "validation": validation, "test": test}
    splits = {split: batches for split, batches in given.items() if batches is not None}
    for split, batches in splits.items():
        if not callable(batches) and not isinstance(batches, Iterable):
            refuse("E514", f"the {split} data is {type(batches).__name__}, not an iterable of batches")
    return BatchStream(splits, tuple(names) if names is not None else None)


@dataclass(frozen=True, slots=True, eq=False)
class StreamSplit:
    """One split of a stream; it is its own loader, as its batches are what they are."""

    split: str
    batches: Batches
    ports: dict[str, Port]
    bounds: dict[str, int]
    names: tuple[str, ...] | None
    device: torch.device | str | None = None

    @property
    def samples(self) -> int | None:
        return None

    @property
    def count(self) -> int | None:
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    def loader(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: bool = False,
        workers: int = 0,
    ) -> StreamSplit:
        return self

    def to(self, device: torch.device | str) -> StreamSplit:
        return StreamSplit(self.split, self.batches, self.ports, self.bounds, self.names, device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches, each checked and converted; the first ``start`` are drawn and thrown away."""
        number = -1
        batches = _open(self.batches, epoch)
        if not isinstance(batches, Iterable):
            message = (
                f"the function of the {self.split} data gave {type(batches).__name__}, no iterable of batches"
            )
            refuse("E514", message, fix="return a list of batches, or yield them")
        for number, batch in enumerate(batches):
            if number >= start:
                yield self._checked(batch, number)
        if number < 0:
            refuse(
                "E514",
                f"the {self.split} data gave no batch in epoch {epoch}",
                notes=["a generator can be run through only once"],
                fix="give a list, a DataLoader, or a function that returns a new iterator",
            )

    def _checked(self, batch: object, number: int) -> dict[str, Tensor]:
        import numpy
        import torch

        where = f"batch {number} of the {self.split} data"
        if self.names is not None and isinstance(batch, list | tuple):
            if len(batch) != len(self.names):
                refuse("E514", f"{where} has {len(batch)} items, where {len(self.names)} names are given")
            batch = dict(zip(self.names, batch, strict=True))
        if not isinstance(batch, Mapping):
            refuse(
                "E514",
                f"{where} is {type(batch).__name__}, not a mapping from port to tensor",
                fix='give {"x": …, "y": …}, or say what a tuple holds: names=("x", "y")',
            )
        out: dict[str, Tensor] = {}
        for port, (dtype, dims) in self.ports.items():
            if port not in batch:
                listed = ", ".join(f"`{name}`" for name in batch) or "none"
                refuse("E510", f"{where} has nothing for port `{port}`", notes=[f"it has: {listed}"])
            value = batch[port]
            try:
                tensor = value if isinstance(value, torch.Tensor) else as_tensor(numpy.asarray(value))
            except (TypeError, ValueError) as error:
                refuse("E508", f"{where}: port `{port}` got {type(value).__name__}, not numbers ({error})")
            if tensor_kind(tensor) == "int" and tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
                tensor = tensor.to(torch.int64)  # torch has these only in name
            if not kind_fits(tensor_kind(tensor), dtype):
                refuse("E512", f"{where}: port `{port}` is {dtype}, it got {str(tensor.dtype)[6:]}")
            if tensor.ndim != len(dims) or not shape_fits(tuple(tensor.shape[1:]), dims[1:]):
                wanted = ["B", *("…" if dim is None else str(dim) for dim in dims[1:])]
                shapes = f"is [{', '.join(wanted)}], it got {list(tensor.shape)}"
                refuse("E511", f"{where}: port `{port}` {shapes}")
            is_float = DTYPES[dtype][1] == "float"
            converted = convert(tensor, dtype)
            bad = find_bad_value(converted if is_float else tensor, dtype, self.bounds.get(port))
            if bad is not None:
                code = "E509" if is_float else "E513"
                refuse(code, f"{where}: sample {bad[0]} of port `{port}` {bad[1]}")
            out[port] = converted.to(self.device) if self.device is not None else converted
        sizes = {port: len(tensor) for port, tensor in out.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            refuse("E514", f"{where} has unequal or empty ports: {sizes}")
        return out


def _open(batches: Batches, epoch: int) -> object:
    if not callable(batches) or isinstance(batches, Iterable):
        return batches
    try:
        takes_epoch = bool(inspect.signature(batches).parameters)
    except (TypeError, ValueError):
        takes_epoch = False
    return batches(epoch) if takes_epoch else batches()
