"""One record of the catalog of diagnostics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A diagnostic's stable code, its one-line title, what it means, and a spec snippet that shows it.

    Codes: the letter is the severity (E error, W warning, N note); the first digit is the stage
    (0 files and YAML, 1 syntax, 2 names, 3 types and shapes, 4 tasks, credit and wiring, 5 data and training,
    6 export). A code is never given to another meaning.
    """

    code: str
    title: str
    text: str
