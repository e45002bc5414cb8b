"""Backends: plug-ins found by entry point. They import r2d2c; r2d2c never imports them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2d2c.lower.graphs import Lowered, LoweredVisit
    from r2d2c.model import Model

GROUP = "r2d2c.backends"


@dataclass(frozen=True, slots=True)
class Backend:
    """How lowered graphs run.

    inference: gives a function of the inputs by name that returns the outputs by name.
    visit: gives a function of a visit's reads, in order, that returns its writes; None if the backend only infers.
    export: writes a model file, for backends that have one.
    inspect: says what is in such a file, as an object with `text()` and `json()`.
    """

    name: str
    doc: str
    inference: Callable[[Model, Lowered], Callable[..., dict[str, Any]]]
    visit: Callable[[Model, LoweredVisit], Callable[..., tuple[Any, ...]]] | None = None
    export: Callable[..., Any] | None = None
    inspect: Callable[..., Any] | None = None


@cache
def backends() -> dict[str, Any]:
    """The installed backends' entry points by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def find_backend(name: str) -> Backend:
    """A backend by name. Raises ValueError if there is none."""
    point = backends().get(name)
    if point is None:
        raise ValueError(f"there is no backend `{name}`; installed: {', '.join(sorted(backends()))}")
    found: Backend = point.load()
    return found
