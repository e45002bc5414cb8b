"""Which form a full hypernet of a linear takes: y = Σ_j (h_j ⊗ x) T_j, or W = Σ_j h_j T_j and then a batched product.

Per generated matrix, with k the width of the code and P the rows of x that share it:

* reorder: P·k·in·out multiplications and additions; no matrix is ever there, only P·k·in numbers at a time
* batched: k·in·out for the matrix and P·in·out for its product; in·out numbers, written, read, and again in backward

A number that goes through memory counts as so many multiplications (`TRAFFIC`). From learning passes in both forms on
one CPU thread, width 256, batch 128, k of 8 and 32, 1 to 32 rows a matrix: 93 to 343, its median 150; with one row both
forms do the same arithmetic, and the batched one took 15 (k = 8) and 12 times as long (k = 32).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from r2d2c.types import Dim, DimLike, evaluate

TRAFFIC = 150
# How many rows there are where only the run knows.
UNKNOWN = 32

Form = Literal["reorder", "batched"]


def choose(rows: Iterable[DimLike], code: int, ranges: Mapping[str, tuple[int, int]]) -> tuple[Form, str]:
    """The form, and why. ``rows``: the dims of x whose rows share a matrix."""
    dims = list(rows)
    sizes = {name: (low + high) // 2 for name, (low, high) in ranges.items()}
    names = {name for dim in dims if isinstance(dim, Dim) for name in dim.symbols()}
    known = {name: sizes.get(name, UNKNOWN) for name in names}
    count = math.prod(evaluate(dim, known) for dim in dims)
    one_by_one, made = count * code, code + count + TRAFFIC
    form: Form = "reorder" if one_by_one <= made else "batched"
    shown = f"{count} row a matrix" if count == 1 else f"{count} rows a matrix"
    if names:
        shown += f" (counted with {', '.join(f'{n} = {known[n]}' for n in sorted(names))})"
    sign = "≤" if form == "reorder" else ">"
    return form, f"{shown}, k = {code}: {count}·{code} {sign} {code} + {count} + {TRAFFIC}"


__all__ = ["TRAFFIC", "Form", "choose"]
