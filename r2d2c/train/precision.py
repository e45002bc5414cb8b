"""`precision` of a spec's `train:` section: in which numbers the products of learning and evaluation are made.

Parameters, gradients and the optimizers' state stay f32; torch's autocast chooses what is computed in fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import walk
from r2d2c.loops import loop_of
from r2d2c.source import Span
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import torch

    from r2d2c.model import Model

SCALED = ("backprop", "local", "feedback")
"""The credit rules whose signals come out of backwards alone, which can be scaled."""


def prepare(model: Model, precision: str) -> None:
    """Let a model learn, and be measured, in a precision."""
    if precision == model._precision:
        return
    from r2d2c.lower.scaling import Scaler

    model._precision = precision
    model._scaler = Scaler() if precision == "fp16" else None
    model._compiled = {}


def around(model: Model) -> AbstractContextManager[object]:
    """What runs around the passes of a model: torch's autocast, or nothing for f32."""
    if model._precision == "f32":
        return nullcontext()
    import torch

    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    # Not cached: what one pass casts without gradients would be used by the next one, which takes them.
    return torch.autocast(device.type, dtype=_dtype(model._precision), cache_enabled=False)


def _dtype(precision: str) -> torch.dtype:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def check_precision(checked: Checked, precision: str, span: Span | None, sink: Sink) -> bool:
    """Whether a spec may learn in so few bits; E664 if not."""
    if precision == "f32":
        return True
    for origin, what in _needs_f32(checked):
        also = [(origin, "here")] if origin is not None else []
        sink.report(
            "E664", span, f"{what}, so it learns in f32 alone", also=also, fix="write `precision: f32`"
        )
        return False
    for link in checked.graph.links if precision == "fp16" else ():
        if link.credit.rule not in SCALED:
            message = (
                f"`{link.credit.rule}` sends signals that are products, and those of small ones are 0 in fp16"
            )
            also = [(link.origin, "here")] if link.origin is not None else []
            sink.report("E664", span, message, also=also, fix="write `precision: bf16`")
            return False
    return True


def _needs_f32(checked: Checked) -> Iterator[tuple[Span | None, str]]:
    for _, node in walk(checked.graph):
        if node.op in ("op_graph", "bilinear"):
            yield node.origin, f"`{node.op}` sums up products in a way of its own"
        if node.op == "loop" and any(carry.credit == "eprop" for carry in loop_of(node).carries):
            yield node.origin, "e-prop sums up eligibilities over all steps"
    for link in checked.graph.links:
        if link.credit.rule in ("hebbian", "equilibrium"):
            why = "changes weights by its own small products" if link.credit.rule == "hebbian" else _NUDGED
            yield link.origin, f"`{link.credit.rule}` {why}"


_NUDGED = "takes the difference of two phases that are nearly the same"


def check_device(precision: str, device: torch.device, span: Span | None) -> None:
    """Refuses (E665) a precision that the device does not have."""
    import torch

    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        refuse(
            "E665", f"{torch.cuda.get_device_name(device)} has no bf16", span, fix="write `precision: f32`"
        )
    if precision == "fp16" and device.type != "cuda":
        refuse(
            "E665",
            f"fp16 is for CUDA devices, and this is `{device.type}`",
            span,
            fix="write `precision: bf16`, or train with --device cuda",
        )
