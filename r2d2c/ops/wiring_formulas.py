"""Predicates on places (see `r2d2c/places.py`) as torch and as ONNX ops, for places that are known when the model runs.

A comparison is a bool; in arithmetic it is 1 or 0. Nothing here has a gradient but the distance of `wiring_cost`.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import Any

from r2d2c.formulas import Formula

_ARITHMETIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}
_COMPARE = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_LOGIC = {"and": operator.and_, "or": operator.or_}
_UNARY = ("exp", "log", "sqrt", "abs", "tanh", "square")
_ONNX = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "^": "Pow", "max": "Max", "min": "Min"}
_ONNX_COMPARE = {"<": "Less", ">": "Greater", "<=": "LessOrEqual", ">=": "GreaterOrEqual", "==": "Equal"}
_AXES = {"dx": 0, "dy": 1, "dz": 2, "step": 2}


class _Writer(ABC):
    """Writes one formula, with each quantity made once. A value comes with whether it is a bool."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def write(self, formula: Formula) -> tuple[Any, bool]:
        if isinstance(formula, str):
            if formula not in self.known:
                self.known[formula] = self.quantity(formula)
            return self.known[formula], False
        if not isinstance(formula, tuple):
            return float(formula), False
        head, *parts = formula
        given = [self.write(part) for part in parts]
        if head in ("and", "or", "not"):
            return self.logic(head, [self.truth(*each) for each in given]), True
        if head in ("*", "max", "min") and all(whether for _, whether in given):
            return self.logic("or" if head == "max" else "and", [value for value, _ in given]), True
        numbers = [self.number(*each) for each in given]
        if head in _COMPARE:
            return self.compare(head, *numbers), True
        return self.arithmetic(head, numbers), False

    @abstractmethod
    def quantity(self, name: str) -> Any:
        """A number of each pair of places, [m, n], by its name: a distance, or a difference along an axis."""

    def truth(self, value: Any, whether: bool) -> Any:
        if whether:
            return value
        return bool(value) if isinstance(value, float) else self.compare("!=", value, 0.0)

    @abstractmethod
    def number(self, value: Any, whether: bool) -> Any:
        """A value as a number: 1 or 0 of a bool."""

    @abstractmethod
    def logic(self, sign: str, values: list[Any]) -> Any:
        """``and``, ``or`` or ``not`` of bools."""

    @abstractmethod
    def compare(self, sign: str, left: Any, right: Any) -> Any:
        """The bool of two numbers."""

    @abstractmethod
    def arithmetic(self, head: str, values: list[Any]) -> Any:
        """A number of numbers."""


class _Torch(_Writer):
    def __init__(self, b: Any, source: Any, target: Any) -> None:
        super().__init__()
        self.b = b
        source, target = b.method("detach", source), b.method("detach", target)
        self.difference = b("torch.sub", b("torch.unsqueeze", target, 1), b("torch.unsqueeze", source, 0))

    def quantity(self, name: str) -> Any:
        b = self.b
        if name in _AXES:
            return b("torch.select", self.difference, -1, _AXES[name])
        difference = b("torch.narrow", self.difference, -1, 0, 2) if name == "plane" else self.difference
        return b("torch.linalg.vector_norm", difference, 2, -1)

    def number(self, value: Any, whether: bool) -> Any:
        return self.b.method("to", value, self.b.dtype(self.b.type("source").dtype)) if whether else value

    def logic(self, sign: str, values: list[Any]) -> Any:
        return self.b("torch.logical_not", *values) if sign == "not" else self.b.python(_LOGIC[sign], *values)

    def compare(self, sign: str, left: Any, right: Any) -> Any:
        return self.b.python(_COMPARE[sign], left, right)

    def arithmetic(self, head: str, values: list[Any]) -> Any:
        if head in _ARITHMETIC:
            return self.b.python(_ARITHMETIC[head], *values)
        if head in _UNARY:
            return self.b(f"torch.{head}", *values)
        number = next((value for value in values if isinstance(value, float)), None)
        if number is None:
            return self.b(f"torch.{head}imum", *values)
        other = next(value for value in values if value is not number)
        return self.b("torch.clamp", other, **{"min" if head == "max" else "max": number})


class _Onnx(_Writer):
    def __init__(self, o: Any, source: Any, target: Any) -> None:
        super().__init__()
        self.o, self.dtype = o, o.type("source").dtype
        self.difference = o("Sub", o("Unsqueeze", target, o.ints([1])), o("Unsqueeze", source, o.ints([0])))

    def quantity(self, name: str) -> Any:
        o = self.o
        if name in _AXES:
            return o("Gather", self.difference, o.const(_AXES[name], "i64"), axis=2)
        difference = self.difference
        if name == "plane":
            difference = o("Slice", difference, o.ints([0]), o.ints([2]), o.ints([2]))
        return o("ReduceL2", difference, o.ints([2]), keepdims=0)

    def number(self, value: Any, whether: bool) -> Any:
        if whether:
            return self.o.cast(value, self.dtype)
        return self.o.const(value, self.dtype) if isinstance(value, float) else value

    def logic(self, sign: str, values: list[Any]) -> Any:
        given = [self.o.const(value, "bool") if isinstance(value, bool) else value for value in values]
        return self.o(sign.capitalize(), *given)

    def compare(self, sign: str, left: Any, right: Any) -> Any:
        left, right = (self.number(value, False) for value in (left, right))
        if sign == "!=":
            return self.o("Not", self.o("Equal", left, right))
        return self.o(_ONNX_COMPARE[sign], left, right)

    def arithmetic(self, head: str, values: list[Any]) -> Any:
        if head == "square":
            return self.o("Mul", values[0], values[0])
        return self.o(_ONNX.get(head, head.capitalize()), *values)


def torch_formula(b: Any, formula: Formula, source: Any, target: Any) -> Any:
    """bool[m, n], where a predicate holds, as fx nodes."""
    found, _ = _Torch(b, source, target).write(formula)
    return found


def onnx_formula(o: Any, formula: Formula, source: Any, target: Any) -> Any:
    """bool[m, n], where a predicate holds, as ONNX values."""
    found, _ = _Onnx(o, source, target).write(formula)
    return found


def torch_distance(b: Any, source: Any, target: Any) -> Any:
    """[m, n], the Euclidean distances; their gradient is 0 between points that are at one place."""
    difference = b("torch.sub", b("torch.unsqueeze", target, 1), b("torch.unsqueeze", source, 0))
    return b("torch.linalg.vector_norm", difference, 2, -1)


def onnx_distance(o: Any, source: Any, target: Any) -> Any:
    difference = o("Sub", o("Unsqueeze", target, o.ints([1])), o("Unsqueeze", source, o.ints([0])))
    return o("ReduceL2", difference, o.ints([2]), keepdims=0)
