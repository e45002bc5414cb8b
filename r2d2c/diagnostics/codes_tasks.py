"""Diagnostics 4xx: tasks, credit, losses, wiring."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

TASKS: tuple[Entry, ...] = ()
