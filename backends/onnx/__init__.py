"""The ONNX backend: writes the lowered inference graph as ONNX, verifies it, and runs it in ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2d2c.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from r2d2c.lower.graphs import Lowered
    from r2d2c.model import Model

    from .export import ExportReport
    from .inspect import Inspection


# onnx and onnxruntime are imported when they are used: naming a backend must not pay for them.
def _inference(model: Model, lowered: Lowered) -> Callable[..., dict[str, Any]]:
    from .runtime import inference

    return inference(model, lowered)


def _export(model: Model, path: Path, **options: Any) -> ExportReport:
    from .export import export

    return export(model, path, **options)


def _inspect(path: Path) -> Inspection:
    from .inspect import inspect_model

    return inspect_model(path)


BACKEND = Backend(
    "onnx",
    "ONNX Runtime, for inference only; and the ONNX files of `export`.",
    _inference,
    export=_export,
    inspect=_inspect,
)
