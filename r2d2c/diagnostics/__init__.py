"""Diagnostics: what the compiler tells a user about her spec, and the sink that collects it."""

from r2d2c.diagnostics.core import CompileError, Diagnostic, Fix, Label, Severity, Sink, suggest

__all__ = ["CompileError", "Diagnostic", "Fix", "Label", "Severity", "Sink", "suggest"]
