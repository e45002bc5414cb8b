"""r2d2c: a compiler for neural networks that do not learn the usual way."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from r2d2c.api import compile, export, load, loads
    from r2d2c.diagnostics import CompileError, Diagnostic
    from r2d2c.driver import Checked
    from r2d2c.model import Model, Step, Trace
    from r2d2c.train.api import evaluate, predict, train
    from r2d2c.train.compare import Comparison, compare
    from r2d2c.train.events import Callback
    from r2d2c.train.evolve import Ensemble, Evolution, evolve
    from r2d2c.train.generate import generate
    from r2d2c.train.pack import pack
    from r2d2c.train.run import Run, open_run
    from r2d2c.train.sweep import Sweep, sweep

# Names are imported when they are used: `import r2d2c` and a spec with a mistake must not pay for torch.
_WHERE = {
    "Callback": "train.events",
    "Checked": "driver",
    "Comparison": "train.compare",
    "CompileError": "diagnostics",
    "Diagnostic": "diagnostics",
    "Ensemble": "train.evolve",
    "Evolution": "train.evolve",
    "Model": "model",
    "Run": "train.run",
    "Step": "model",
    "Sweep": "train.sweep",
    "Trace": "model",
    "compare": "train.compare",
    "compile": "api",
    "evaluate": "train.api",
    "evolve": "train.evolve",
    "export": "api",
    "generate": "train.generate",
    "load": "api",
    "loads": "api",
    "open_run": "train.run",
    "pack": "train.pack",
    "predict": "train.api",
    "sweep": "train.sweep",
}
__all__ = [
    "Callback",
    "Checked",
    "Comparison",
    "CompileError",
    "Diagnostic",
    "Ensemble",
    "Evolution",
    "Model",
    "Run",
    "Step",
    "Sweep",
    "Trace",
    "compare",
    "compile",
    "evaluate",
    "evolve",
    "export",
    "generate",
    "load",
    "loads",
    "open_run",
    "pack",
    "predict",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "train":  # a package that can be called, as one name cannot be both
        return import_module("r2d2c.train")
    if name not in _WHERE:
        raise AttributeError(f"module 'r2d2c' has no attribute {name!r}")
    value = getattr(import_module(f"r2d2c.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
