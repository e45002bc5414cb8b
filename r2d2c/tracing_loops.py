"""The values of every step of a loop, for `Model.trace`: ``refine.c@2`` is `refine.c` after the second step.

Where samples halt, a step has the values of those that run in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx as fx

from r2d2c.graph import Node, Value
from r2d2c.loops import loop_of
from r2d2c.lower.init import Rng
from r2d2c.lower.loops import LoopCall

Name = Callable[[Node, int], str | None]


def loop_name(node: Node, port: int) -> str:
    """``refine.logits``, ``refine.logits.steps``; of a further call of the loop with ``@`` and the place of that."""
    _, at, run = node.id.partition("@")
    return f"{loop_of(node).name}.{node.outputs[port]}{at}{run}"


def starts(node: Node) -> dict[str, Value]:
    """What a loop's carries start as: ``refine.c@0``."""
    _, at, run = node.id.partition("@")
    place = f"{at or '@'}{run}{'.' if run else ''}0"
    loop = loop_of(node)
    return {
        f"{loop.name}.{carry.name}{place}": value
        for carry, value in zip(loop.carries, node.inputs, strict=False)
        if value is not None
    }


class Steps:
    """Keeps the values of steps while a graph runs. ``values``: as autograd made them, by name."""

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.path: list[str] = []

    def watch(self, graph: fx.Graph, name: Name) -> None:
        """Have every loop that a graph calls keep what its steps compute."""
        for node in list(graph.nodes):
            if node.op != "call_function" or not isinstance(node.target, LoopCall):
                continue
            made = next((user.meta["r2d2c"][0] for user in node.users if "r2d2c" in user.meta), None)
            run = made.id.partition("@")[2] if made is not None else ""
            inner = node.target.fx
            self.watch(inner, name)
            for value in list(inner.nodes):
                found = value.meta.get("r2d2c")
                shown = name(*found) if found is not None else None
                if shown is not None:
                    with inner.inserting_after(value):
                        inner.call_function(_Keep(self, shown), (value,))
            node.target = _Watched(node.target, self, run)


class _Keep:
    """Called in a step with a value of it."""

    def __init__(self, steps: Steps, name: str) -> None:
        self.steps, self.name = steps, name
        self.__name__ = self.__qualname__ = "keep"
        self.__module__ = __name__

    def __call__(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self.steps.values[f"{self.name}@{'.'.join(self.steps.path)}"] = value


class _Watched(LoopCall):
    """A loop whose steps are numbered while they run. Nothing is computed again: the values are those of the first time."""

    def __init__(self, call: LoopCall, steps: Steps, run: str) -> None:
        self.__dict__.update(call.__dict__)
        self.loop, self.phases = replace(call.loop, recompute=False), None
        self.steps, self.run = steps, run

    def run_step(
        self,
        number: int,
        trips: int,
        carries: tuple[Any, ...],
        elements: Sequence[Any],
        rest: tuple[Any, ...],
        rng: Rng | None,
    ) -> tuple[Any, ...]:
        path = self.steps.path
        before = len(path)
        path += [*([self.run] if self.run else []), str(number + 1)]
        try:
            return super().run_step(number, trips, carries, elements, rest, rng)
        finally:
            del path[before:]
