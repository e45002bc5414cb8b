"""Places in the file that `compile --emit python` writes: where points are, who is wired to whom, and first weights."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from r2d2c.graph import Storage
from r2d2c.lower.init import draw_of, shape_of
from r2d2c.places import Placing, Reads, Rule, coordinates
from r2d2c.seeds import seed_of

KINDS = ("places", "wired")

_HELPER = '''
def wires(rows, count):
    """bool[m, n], which of n points each of m points reads."""
    table = torch.zeros(len(rows), count, dtype=torch.bool)
    for row, read in zip(table, rows):
        row[read] = True
    return table


def reads(table, width):
    """i64[m, width], the points that each point reads; rows with fewer go on with those that it does not."""
    return torch.argsort((~table).byte(), dim=1, stable=True)[:, :width].contiguous()


def first_weights(tensor, table, kind=None):
    """First weights [m, n] or biases [m] between places: none where there is no wire, else as its wires allow."""
    to = table.sum(1, keepdim=True).clamp(min=1).double()
    out = table.sum(0, keepdim=True).clamp(min=1).double()
    scale = torch.ones_like(to)
    if kind is None:
        scale = (1.0 / to).sqrt()
    elif kind in ("kaiming", "kaiming_normal"):
        scale = (table.shape[1] / to).sqrt()
    elif kind in ("xavier", "xavier_normal"):
        scale = (sum(table.shape) / (to + out)).sqrt()
    scale = torch.where(table, scale, 0.0) if tensor.shape[-2:] == table.shape else scale[:, 0]
    return tensor * scale.to(tensor.dtype)
'''


def helpers(rows: Iterable[Storage]) -> list[str]:
    """The functions that the file needs, if something is wired."""
    return (
        [_HELPER] if any(isinstance(row.init.args[0], Rule) for row in rows if row.init.kind in KINDS) else []
    )


class Tables:
    """Who is wired to whom, each said once: ``lines`` come before the parameters."""

    def __init__(self, rows: Iterable[Storage], seed: int) -> None:
        self.seed, self.lines = seed, list[str]()
        self._names: dict[Rule, str] = {}
        for row in rows:
            rule = row.init.args[0] if row.init.kind in KINDS else None
            if isinstance(rule, Rule) and rule not in self._names:
                name = self._names[rule] = f"wires_{len(self._names)}"
                table = rule.draw(seed)
                read = [line.nonzero()[0].tolist() for line in table]
                self.lines.append(_wrapped(f"{name} = wires({read}, {table.shape[1]})  # {rule}"))

    def parameter(self, row: Storage) -> str:
        """The statement that makes a storage entry, with the values that it begins with."""
        first, kind = row.init.args[0], "" if row.kind == "param" else f', "{row.kind}"'
        if isinstance(first, Placing):
            points = coordinates(first, self.seed).tolist()
            return _wrapped(f'put(self, "{row.name}", torch.tensor({points}){kind})')
        if isinstance(first, Reads):
            made = f"reads({self._names[first.rule]}, {first.width(self.seed)})"
            return f'put(self, "{row.name}", {made}{kind})'
        if row.init.kind == "places":
            return f'put(self, "{row.name}", {self._names[first]}.clone(){kind})'
        draw, shape = draw_of(row), shape_of(row)
        given = f', "{row.init.args[1].kind}"' if len(row.init.args) > 1 else ""
        made = f'make({shape}, "{draw.kind}", {draw.value!r}, {seed_of(self.seed, row.name)})'
        return f'put(self, "{row.name}", first_weights({made}, {self._names[first]}{given}){kind})'


def _wrapped(line: str) -> str:
    return "\n            ".join(textwrap.wrap(line, 108, break_on_hyphens=False, break_long_words=False))
