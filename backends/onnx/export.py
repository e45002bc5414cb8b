"""`r2d2c.export`: build, check, verify against PyTorch, and only then write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import RESET
from r2d2c.model import Model
from r2d2c.train.atomic import write_atomic

from .build import build
from .context import OPSET
from .runtime import serialize
from .verify import Sizes, check_model, verify


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A written ONNX file.

    max_difference: by output, the largest difference from PyTorch relative to the output's scale.
    nodes: those of the bodies of loops count once.
    sizes: the sizes of run-time dims, and the arguments, it was compared at. skipped: sizes that PyTorch itself refused.
    outputs: ONNX names by the spec's; they differ for an output that is named like an input.
    states: of the state, the ONNX names of the inputs, and of the outputs that the next run takes.
    step: the length of the sequences of which the file takes one element; None of a file of the whole sequence.
    """

    path: Path
    nodes: int
    opset: int
    parameters: int
    bytes: int
    max_difference: dict[str, float]
    batch_sizes: tuple[int, ...]
    sizes: tuple[Sizes, ...]
    skipped: tuple[Sizes, ...]
    outputs: dict[str, str]
    states: dict[str, str]
    step: str | None

    def json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "path": str(self.path)}

    def text(self) -> str:
        """One line a fact."""
        worst = max(self.max_difference.values(), default=0.0)
        lines = [
            f"{self.path}: {self.nodes} nodes, {self.parameters:,} parameters, {self.bytes:,} bytes, "
            f"opset {self.opset}",
            f"verified against PyTorch at {_shown(self.sizes)}: largest difference {worst:.1e}",
        ]
        if self.skipped:
            lines.append(f"not compared at {_shown(self.skipped)}: PyTorch itself fails there")
        lines += [
            f"the output `{name}` is `{given}` in the file: an input has its name"
            for name, given in self.outputs.items()
            if name != given
        ]
        if self.states:
            lines += [
                f"state: {', '.join(self.states)}",
                "what the next run takes as its state are the outputs that end in `.next`; where the input "
                f"`{RESET}` is true, a sample starts anew",
            ]
        if self.step is not None:
            lines.append(f"one step: inputs and outputs have no axis of {self.step}")
        return "\n".join(lines)


def _shown(all_sizes: tuple[Sizes, ...]) -> str:
    return "; ".join(
        ", ".join(f"{n}={s:g}" for n, s in sizes.items()) or "fixed sizes" for sizes in all_sizes
    )


def export(
    model: Model,
    path: Path,
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 7),
    overwrite: bool = False,
    step: bool = False,
) -> ExportReport:
    """Write the inference graph as ONNX, verified.

    tolerance: the largest difference from PyTorch allowed, relative to the largest number of each output.
    overwrite: replace a file that is there.
    step: write one step of a model with a state: inputs and outputs without the axis of the sequence.

    Raises `CompileError`, and then writes nothing: E601 (differs), E602 (the file exists), E603 (not valid),
    E604 (ONNX Runtime cannot run it), E605 and E606 (an op without ONNX form), E607 (too large), E608 (does
    not run), E609 (no such folder), E612 (ONNX lacks an op for a dtype), E614 (there is no one step), E615 (one step
    after another is not the whole). `OSError` of the disk comes through,
    with an old file untouched.
    """
    path = Path(path)
    _check_target(path, overwrite)
    built = build(model, step)
    data = serialize(built, model.spec.name)
    check_model(data, model)
    seen = verify(model, built, data, tolerance, batch_sizes)
    _check_target(path, overwrite)  # it may have come into being meanwhile
    write_atomic(path, data)
    ports = {port for _, port in built.states}
    return ExportReport(
        path,
        sum(1 for _ in built.model.graph.all_nodes()),
        OPSET,
        built.parameters,
        len(data),
        {name: difference for name, (difference, _) in seen.differences.items()},
        tuple(dict.fromkeys(int(sizes["B"]) for sizes in seen.ran if "B" in sizes)),
        tuple(seen.ran),
        tuple(seen.skipped),
        {name: given for name, given in built.outputs.items() if name not in ports},
        {built.inputs[port]: built.outputs[port] for _, port in built.states},
        None if built.step is None else str(built.step.over),
    )


def _check_target(path: Path, overwrite: bool) -> None:
    sink = Sink()
    if path.is_dir():
        sink.report(
            "E609",
            None,
            f"{path} is a folder, and the ONNX file needs a name",
            fix=f"write to {path / 'model.onnx'}",
        )
    elif not path.parent.is_dir():
        sink.report("E609", None, f"there is no folder {path.parent} to write {path.name} to")
    elif path.exists() and not overwrite:
        sink.report("E602", None, f"{path} exists", fix="choose another name, or allow overwriting it")
    if sink.failed:
        raise CompileError(sink.diagnostics)
