"""Holding an ONNX model against the PyTorch module it was written from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx
import torch

from r2d2c.backend import find_backend
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import RESET, Argument
from r2d2c.model import Model
from r2d2c.sampling import random_batch, run_time_sizes
from r2d2c.types import Dim

from .build import Built
from .context import OPSET
from .runtime import FAILURES, open_session, origin_of, refusal, run, run_steps

# Sizes of run-time dims other than the batch: different ones, large enough for most windows.
OTHER_SIZES = (12, 7, 17)
# The last op that is named is the one inside of the loops.
_UNSUPPORTED = re.compile(r".*op_type:\s*(\w+), node name: ([^)]*)\).*has unsupported type: tensor\((\w+)\)")
# Below this an output counts as zero when differences are related to its scale.
LEAST_SCALE = 1e-3
# The first seed of the data that comes after the first, where there is a state.
_AFTER = 1000
# Of run-time dims and arguments.
Sizes = dict[str, int | float]


@dataclass(slots=True)
class Comparison:
    """What a verification saw.

    differences: by output, the largest difference relative to the output's scale, and the sizes where it was.
    ran: the sizes, and arguments, that were compared; skipped: those that the PyTorch module itself refuses.
    """

    differences: dict[str, tuple[float, Sizes]] = field(default_factory=dict)
    ran: list[Sizes] = field(default_factory=list)
    skipped: list[Sizes] = field(default_factory=list)


def check_model(data: bytes, model: Model) -> None:
    """onnx.checker with strict shape inference.

    Raises `CompileError`: E612 if ONNX lacks an op for its dtype, E603 if the model is not valid.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        sink = Sink()
        found = _UNSUPPORTED.search(str(error))
        if found:
            place = found[2].partition("/")[0]
            sink.report(
                "E612",
                origin_of(model, place),
                f"ONNX opset {OPSET} has no `{found[1]}` for {found[3]}, which `{place}` needs",
                fix="export the model in float32: `model.float()`",
            )
        else:
            notes = [line.strip() for line in str(error).splitlines() if line.strip()][:4]
            sink.report("E603", None, f"the ONNX model of `{model.spec.name}` is not valid", notes=notes)
        raise CompileError(sink.diagnostics) from error


def verify(
    model: Model, built: Built, data: bytes, tolerance: float, batch_sizes: Sequence[int]
) -> Comparison:
    """Compare outputs on random inputs of several sizes; of one step, a step after another with the whole sequence.

    Where there is a state, samples start anew, and then some of them go on from the state that came of it.

    Raises `CompileError`: E601 if an output differs by more than ``tolerance`` times its scale, of one step E615; E604
    if ONNX Runtime cannot run the model, E608 if the module runs at none of the sizes.
    """
    session = open_session(data, model)
    compared = run if built.step is None else run_steps
    module: Callable[..., dict[str, Any]] = find_backend("eager").inference(model, model._inference_lowered)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    dtype = model._float
    usual = {name: _value(model.graph.arguments[name], "usual") for name in built.arguments}
    found = Comparison()
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor, Sizes]]] = {n: [] for n in built.outputs}
    problem: Exception | None = None
    for seed, sizes in enumerate(size_choices(model, batch_sizes)):
        whole = {name: size for name, size in sizes.items() if isinstance(size, int)}
        batch = random_batch(model._inference_graph, seed, whole, dtype)
        arguments = {name: sizes[name] for name in built.arguments}
        if built.states:
            batch[RESET] = torch.ones_like(batch[RESET])
        try:
            expected = _run(module, batch, arguments, device)
            runs = [(batch, expected)]
            if built.states:
                # Other data: what a memory has seen before may surprise it exactly as much again, and a tie is decided
                # by the last bit.
                batch = random_batch(model._inference_graph, _AFTER + seed, whole, dtype)
                batch |= {port: expected[port].cpu() for _, port in built.states}
                batch[RESET] = torch.arange(len(batch[RESET])) % 3 == 1
                runs.append((batch, _run(module, batch, arguments, device)))
        except (RuntimeError, IndexError, ValueError) as error:
            # Too short a sequence for a window, say: no ONNX file can do better.
            found.skipped.append(sizes)
            problem = error
            continue
        # The file has to have the usual numbers itself.
        given = {} if arguments == usual else arguments
        for batch, expected in runs:
            try:
                got = compared(session, built, {**batch, **given})
            except FAILURES as error:
                raise refusal(error, model) from error
            for name, tensor in expected.items():
                pairs[name].append((torch.as_tensor(tensor).cpu(), got[name], sizes))
        found.ran.append(sizes)
    if not found.ran:
        sink = Sink()
        shown = "; ".join(_shown(sizes) for sizes in found.skipped)
        sink.report(
            "E608",
            None,
            f"`{model.spec.name}` runs at none of the sizes tried: {shown}",
            notes=[str(problem)],
        )
        sink.stop_on_errors()
    found.differences = {built.shown(name): _largest(runs) for name, runs in pairs.items()}
    _judge(found, max(tolerance, _rounding(dtype)), built.step is not None)
    return found


def _run(
    module: Callable[..., dict[str, Any]],
    batch: dict[str, torch.Tensor],
    arguments: Sizes,
    device: torch.device,
) -> dict[str, Any]:
    with torch.no_grad():
        return module(**{name: x.to(device) for name, x in batch.items()}, **arguments)


def size_choices(model: Model, batch_sizes: Sequence[int]) -> Iterator[Sizes]:
    """Sizes for all run-time dims: each batch size, with other sizes of the other dims each time.

    With them go the model's arguments: each at its ends, at its usual value and at all numbers it is limited to, and
    at last all at their usual values.
    """
    graph = model._inference_graph
    symbols: set[str] = set()
    for port in graph.body.inputs:
        for dim in graph.types[port.value].dims:
            symbols |= dim.symbols() if isinstance(dim, Dim) else set()
    arguments = [graph.arguments[name] for name in model._inference_lowered.arguments]
    usual = {a.name: _value(a, "usual") for a in arguments}
    if not symbols and not arguments:
        yield {**run_time_sizes(graph)} if graph.ranges else {}
        return
    others = sorted(symbols - {"B"})
    choices = {a.name: _choices(a) for a in arguments}
    batches = batch_sizes if "B" in symbols else range(len(OTHER_SIZES)) if symbols else range(1)
    seen_usual = False
    for number in range(max(len(batches), *map(len, choices.values()), 0)):
        sizes: Sizes = {"B": batches[number % len(batches)]} if "B" in symbols else {}
        for position, name in enumerate(others):
            low, high = graph.ranges.get(name, (1, max(OTHER_SIZES)))
            sizes[name] = min(max(OTHER_SIZES[(number + position) % len(OTHER_SIZES)], low), high)
        given = {n: c[(number + p) % len(c)] for p, (n, c) in enumerate(choices.items())}
        seen_usual = seen_usual or given == usual
        yield sizes | given
    if not seen_usual:
        yield sizes | usual


def _choices(argument: Argument) -> list[int | float]:
    if argument.allowed:
        return sorted(argument.allowed)
    return sorted({_value(argument, end) for end in ("low", "usual", "high")})


def _value(argument: Argument, which: Literal["low", "usual", "high"]) -> int | float:
    value: float = getattr(argument, which)
    return int(value) if argument.kind == "size" else float(value)


def _largest(runs: list[tuple[torch.Tensor, torch.Tensor, Sizes]]) -> tuple[float, Sizes]:
    """The largest difference over the scale of the output, and where."""
    scale = max((_size(expected) for expected, _, _ in runs), default=0.0)
    integers = all(
        not (expected.is_floating_point() and got.is_floating_point()) for expected, got, _ in runs
    )
    worst = 0.0
    where: Sizes = runs[0][2] if runs else {}
    for expected, got, sizes in runs:
        difference = _difference(expected, got) / (1.0 if integers else max(scale, LEAST_SCALE))
        if difference > worst:
            worst, where = difference, sizes
    return worst, where


def _size(tensor: torch.Tensor) -> float:
    finite = tensor.double()[tensor.double().isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    left, right = expected.double(), got.double()
    same = (left == right) | (left.isnan() & right.isnan())
    if bool(same.all()):
        return 0.0
    gap = (left - right).abs()[~same]
    return float("inf") if bool(gap.isnan().any()) else float(gap.max())


def _rounding(dtype: torch.dtype) -> float:
    return 8 * torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 0.0


def _shown(sizes: Sizes) -> str:
    return ", ".join(f"{name}={size:g}" for name, size in sizes.items()) or "the spec's own sizes"


def _judge(found: Comparison, tolerance: float, step: bool) -> None:
    sink = Sink()
    whose = (
        "one step after another differs from the whole sequence's"
        if step
        else "the ONNX model differs from PyTorch's"
    )
    for output, (difference, sizes) in found.differences.items():
        if not difference <= tolerance:
            sink.report(
                "E615" if step else "E601",
                None,
                f"the output `{output}` of {whose} by {difference:.2g} of its "
                f"scale at {_shown(sizes)}; at most {tolerance:.2g} is allowed",
                notes=["no file was written"],
                fix="let the loop alone look at more than one element of the sequence" if step else None,
            )
    sink.stop_on_errors()
