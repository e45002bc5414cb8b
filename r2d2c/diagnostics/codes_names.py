"""Diagnostics 2xx: names, dims, blocks, imports."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

NAMES: tuple[Entry, ...] = ()
