"""Diagnostics 3xx: types and shapes."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SHAPES: tuple[Entry, ...] = ()
