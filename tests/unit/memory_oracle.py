"""A memory store written out by hand: lists of slots, one sample and one slot at a time, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

NEVER = 2**30
Slot = dict[str, Any]
Rule = Callable[[Slot], float]


@dataclass
class Store:
    """The slots of one sample. An empty slot has the zeros that it started with, and the age `NEVER`.

    worth: what a slot is worth, the lowest goes first. when: whether to write, given the new values and the old slot.
    """

    slots: list[Slot]
    worth: Rule
    when: Callable[[Slot, Slot], bool] = lambda new, old: True
    backprop: bool = False
    count: int = 0
    chosen: list[int] = field(default_factory=list)

    def write(self, **new: Any) -> None:
        if not self.backprop:
            new = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in new.items()}
        if self.count == 0 and "surprise" in new:
            new["surprise"] = torch.zeros_like(new["surprise"])
        self.count += 1
        place = self._place()
        old = dict(self.slots[place])
        if old["age"] == NEVER and "surprise" in old:
            old["surprise"] = -math.inf
        writes = self.when(new, old)
        for slot in self.slots:
            if slot["age"] != NEVER:
                slot["age"] = min(slot["age"] + 1, NEVER - 1)
        if writes:
            self.slots[place] = {**new, "age": 0}
            self.chosen.append(place)

    def _place(self) -> int:
        for number, slot in enumerate(self.slots):
            if slot["age"] == NEVER:
                return number
        worths = [float(self.worth(slot)) for slot in self.slots]
        return worths.index(min(worths))

    def newest(self) -> int:
        """The slot written last; 0 if none was."""
        ages = [slot["age"] for slot in self.slots]
        return ages.index(min(ages))

    def oldest(self) -> int:
        """The slot written first; 0 if none was."""
        ages = [-1 if slot["age"] == NEVER else slot["age"] for slot in self.slots]
        return ages.index(max(ages))


def bits(age: int, count: int) -> list[float]:
    age = min(age, 2**count - 1)
    return [float((age >> place) & 1) for place in range(count)]
