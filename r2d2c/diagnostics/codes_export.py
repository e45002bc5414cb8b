"""Diagnostics 6xx: export and model files."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

EXPORT: tuple[Entry, ...] = ()
