"""The eager backend: fx code run as it is."""

from __future__ import annotations

from r2d2c.backend import Backend
from r2d2c.lower.codegen import compile_function

BACKEND = Backend(
    "eager",
    "PyTorch, one call after the other. The reference.",
    inference=lambda model, lowered: compile_function(lowered.fx, model, f"{model.spec.name} inference"),
    visit=lambda model, visit: compile_function(visit.fx, model, f"{model.spec.name} {visit.name}"),
)
