"""What things are called in an ONNX model: after the spec, and without a trace of where it was made."""

from __future__ import annotations

import functools
import re

from r2d2c.graph import Node
from r2d2c.loops import loop_of
from r2d2c.source import Span


def file_of(span: Span | None) -> str | None:
    """``file:line`` of a span, without the folder: an exported file must not tell where it was made."""
    return None if span is None else f"{_file_name(span.source.name)}:{span.line}"


@functools.lru_cache(maxsize=64)
def _file_name(name: str) -> str:
    return re.split(r"[\\/]", name)[-1]


def value_name(node: Node, port: int = 0) -> str:
    """A value's name in the spec: that of its statement where the node gives it, else the node's place."""
    if node.op == "port":
        return str(node.attrs["name"])
    if node.op == "param":
        return str(node.attrs["storage"])
    if node.op == "size":
        return str(node.attrs["dim"])
    place, at, copy = node.id.partition("@")
    place = place.partition("/")[0]
    if node.op == "loop":
        # In its step `refine.z` is what one step gives.
        last = ".last" if loop_of(node).gives[port].kind == "last" else ""
        return f"{place}.{node.outputs[port]}{last}{at}{copy}"
    base, _, last = place.rpartition(".")
    name = node.outputs[port]
    if base.rpartition(".")[2] == name:
        place = base
    elif len(node.outputs) > 1:
        place = f"{place}.{name}"
    elif node.op != "constant" and base and name not in (node.op, last.split("_")[0]):
        # `p = linear(x, name=q)` is at TASK.q and gives TASK.p.
        place = f"{base}.{name}"
    return f"{place}{at}{copy}"


def statement_name(node: Node) -> str:
    """The value of the spec that a node works for: ``encode.h`` for ``encode.h.linear_2``."""
    place = node.id.partition("@")[0]
    if node.op == "loop":
        return place.partition("/")[0]
    base = place.rpartition(".")[0]
    name = value_name(node).partition("@")[0]
    return name if "." not in base or (len(node.outputs) == 1 and name != place) else base


def properties(value: str, origin: Span | None, task: str | None) -> dict[str, str]:
    """The metadata of a node."""
    found = {"r2d2c.value": value}
    source = file_of(origin)
    if source is not None:
        found["r2d2c.source"] = source
    if task is not None:
        found["r2d2c.task"] = task
    return found


def unique(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name~2``, ``name~3`` … that is not taken; it is taken now."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}~{count}"
    taken.add(found)
    return found
