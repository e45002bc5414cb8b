"""Diagnostics 1xx: expressions."""

from __future__ import annotations

from r2d2c.diagnostics.codes_sections import SECTIONS
from r2d2c.diagnostics.entry import Entry

SYNTAX: tuple[Entry, ...] = (
    *SECTIONS,
)
