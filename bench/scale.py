"""Long specs: from a file to a module that runs, against building the same fx GraphModule by hand."""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
import torch.fx as fx
import torch.nn.functional as F

import r2d2c
from bench.measure import Result, Setting, interleaved
from bench.specs import head

WIDTH = 16
SMALLER = 50  # how much shorter a quick try is


def text(statements: int) -> str:
    """A behavior of so many statements, one operator or call each; every fourth has parameters."""
    lines = []
    for k in range(statements):
        before = f"v{k - 1}" if k else "x"
        kinds = (f"linear({before}, D)", f"relu({before})", f"{before} + x", f"tanh({before})")
        lines.append(f"      v{k} = {kinds[k % 4]}\n")
    last = f"v{statements - 1}"
    return (
        head("long", {"D": WIDTH}, y="f32[B, D]") + f"tasks:\n  t:\n    behavior: |\n{''.join(lines)}"
        f"    distance: mse({last}, y)\noutputs:\n  out: t.{last}\n"
    )


def by_hand(statements: int) -> fx.GraphModule:
    """The same module without a spec: one call a statement, and its parameters."""
    root, graph = torch.nn.Module(), fx.Graph()
    value = x = graph.placeholder("x")
    for k in range(statements):
        if k % 4 == 0:
            root.add_module(f"linear_{k}", torch.nn.Linear(WIDTH, WIDTH))
            weight, bias = graph.get_attr(f"linear_{k}.weight"), graph.get_attr(f"linear_{k}.bias")
            value = graph.call_function(F.linear, (value, weight, bias))
        elif k % 4 == 2:
            value = graph.call_function(torch.add, (value, x))
        else:
            value = graph.call_function(torch.relu if k % 4 == 1 else torch.tanh, (value,))
    graph.output(value)
    return fx.GraphModule(root, graph)


def _file(content: str) -> Path:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        file.write(content)
    return Path(file.name)


def _compile(path: Path) -> None:
    """From the file to a first result, so that the module's function is compiled too."""
    model = r2d2c.compile(path)
    with torch.no_grad():
        model(x=torch.zeros(2, WIDTH))


def against_hand(setting: Setting, statements: int) -> Result:
    count = statements // SMALLER if setting.quick else statements
    path = _file(text(count))

    def theirs() -> None:
        module = by_hand(count)
        with torch.no_grad():
            module(torch.zeros(2, WIDTH))

    try:
        return interleaved(lambda: _compile(path), theirs, setting, seconds=10.0)
    finally:
        path.unlink()


@cache
def _seconds(statements: int, repetitions: int) -> float:
    """The processor time of a compilation: one of half a minute meets all that else runs on the machine."""
    path, found = _file(text(statements)), []
    try:
        for _ in range(repetitions):
            gc.collect()
            began = time.process_time()
            _compile(path)
            found.append(time.process_time() - began)
    finally:
        path.unlink()
    return statistics.median(found)


def doubling(setting: Setting, statements: int, before: int) -> Result:
    """What twice as many statements cost, from two sizes: a ratio of 2 is linear."""
    times = []
    for count in (statements, before):
        short = count // SMALLER if setting.quick else count
        times.append(_seconds(short, 1 if setting.quick or count > 50_000 else 3 if count <= 20_000 else 2))
    per_doubling = (times[0] / times[1]) ** (1 / math.log2(statements / before))
    return Result(times[1] * per_doubling, times[1])


def one_expression(setting: Setting, operators: int) -> Result:
    """A chain of operators in one expression: it compiles and runs, or this raises."""
    count = operators // SMALLER if setting.quick else operators
    chain = "x" + " + x" * count
    path = _file(
        "r2d2c: 1\nmodel: chain\ninputs:\n  x: f32[B]\ntargets:\n  y: f32[B]\n"
        f"tasks:\n  t:\n    behavior: h = {chain}\n    distance: mse(h, y)\noutputs:\n  h: t.h\n"
    )

    def ours() -> None:
        result = r2d2c.compile(path)(x=torch.ones(3))["h"]
        assert torch.equal(result, torch.full((3,), count + 1.0))

    def theirs() -> None:
        graph = fx.Graph()
        value = x = graph.placeholder("x")
        for _ in range(count):
            value = graph.call_function(torch.add, (value, x))
        graph.output(value)
        fx.GraphModule(torch.nn.Module(), graph)(torch.ones(3))

    try:
        return interleaved(ours, theirs, setting, seconds=2.0)
    finally:
        path.unlink()
