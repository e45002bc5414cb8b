"""From an fx graph to a Python function that runs fast.

The code is fx's own. Only the reads of parameters are changed: ``self.encode.h.linear.weight`` would go through
`nn.Module.__getattr__` once a segment, so they become look-ups in the `_parameters` (or `_buffers`) dict of the module
that holds it. `torch.func.functional_call`, `.to` and `load_state_dict` write to those same dicts. And
`torch.autograd.backward` and `grad` are called without the checks of their arguments, a tenth of a small model's step.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.fx as fx

from r2d2c.lower.chunks import split_long

_READ = re.compile(r"^(    \w+) = self\.([\w.]+)(.*)$", re.MULTILINE)


def compile_function(graph: fx.Graph, root: torch.nn.Module, name: str) -> Callable[..., Any]:
    """A function of the graph's placeholders that reads its parameters from ``root``."""
    code = graph.python_code("self")
    scope: dict[str, Any] = {**code.globals, "_backward": backward, "_grad": grad}
    holders: dict[int, str] = {}

    def read(match: re.Match[str]) -> str:
        target, _, attribute = match[2].rpartition(".")
        module = _find(root, target)
        table = module._parameters if attribute in module._parameters else module._buffers
        label = holders.setdefault(id(table), f"_{len(holders)}")
        scope[label] = table
        return f"{match[1]} = {label}[{attribute!r}]{match[3]}"

    source = (
        _READ.sub(read, code.src)
        .replace("def forward(self, ", "def forward(")
        .replace("def forward(self)", "def forward()")
    )
    source = source.replace(" = torch.autograd.backward(", " = _backward(")
    source = source.replace(" = torch.autograd.grad(", " = _grad(")
    for number, text in enumerate(split_long(source)):
        file = f"<r2d2c {name}>" if not number else f"<r2d2c {name}, part {number}>"
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        exec(compile(text, file, "exec"), scope)
    function: Callable[..., Any] = scope["forward"]
    return function


def _find(root: torch.nn.Module, path: str) -> torch.nn.Module:
    for part in path.split(".") if path else ():
        root = root._modules[part]  # type: ignore[assignment]
    return root


_ENGINE = torch.autograd.Variable._execution_engine


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.ones((), dtype=dtype, device=device)


def backward(
    outputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None] | None,
    inputs: Sequence[torch.Tensor],
    retain_graph: bool = False,
) -> None:
    """As `torch.autograd.backward` of scalars and of tensors with cotangents, which is all that `vjp` nodes make."""
    _ENGINE.run_backward(
        tuple(outputs),
        _given(outputs, cotangents),
        retain_graph,
        False,
        tuple(inputs),
        allow_unreachable=True,
        accumulate_grad=True,
    )


def grad(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None] | None = None,
    retain_graph: bool = False,
) -> tuple[torch.Tensor, ...]:
    """As `torch.autograd.grad`, in the same way."""
    found: tuple[torch.Tensor, ...] = _ENGINE.run_backward(
        tuple(outputs),
        _given(outputs, cotangents),
        retain_graph,
        False,
        tuple(inputs),
        allow_unreachable=False,
        accumulate_grad=False,
    )
    return found


def _given(
    outputs: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor | None] | None
) -> tuple[torch.Tensor, ...]:
    if cotangents is None:
        return tuple([_one(out.dtype, out.device) for out in outputs])
    return tuple(
        [_one(out.dtype, out.device) if c is None else c for out, c in zip(outputs, cotangents, strict=True)]
    )
