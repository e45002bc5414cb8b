"""Parameters and buffers in the file that `compile --emit python` writes: a statement for each, in the constructor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2d2c import emit_op_graphs, emit_places
from r2d2c.graph import Graph, Storage
from r2d2c.lower.builder import TORCH_DTYPES
from r2d2c.lower.init import draw_of, shape_of
from r2d2c.seeds import seed_of

if TYPE_CHECKING:
    from r2d2c.model import Model


def helpers(graph: Graph) -> list[str]:
    """The functions that the statements call, besides `make` and `put`."""
    return emit_places.helpers(graph.storage.values())


def statements(model: Model, random: bool) -> str:
    """The body of the constructor. random: whether learning passes are counted."""
    seed, rows = model.graph.seed, model._training_graph.storage.values()
    tables = emit_places.Tables(rows, seed)
    lines = [f"self.seed, self.step = {seed}, 0"] if random else []
    lines += [*tables.lines, *(_statement(row, seed, tables) for row in rows)]
    return "\n".join(f"        {line}" for line in lines or ["pass"])


def _statement(row: Storage, seed: int, tables: emit_places.Tables) -> str:
    assert row.type is not None
    if row.init.kind in emit_places.KINDS:
        return tables.parameter(row)
    if row.init.kind == "topology":
        return emit_op_graphs.parameter(row, seed)
    draw, shape = draw_of(row), shape_of(row)
    dtype = "" if row.type.dtype == "f32" else f", {TORCH_DTYPES[row.type.dtype]}"
    kind = "" if row.kind == "param" else f', "{row.kind}"'
    made = f'make({shape}, "{draw.kind}", {draw.value!r}, {seed_of(seed, row.name)}{dtype})'
    return f'put(self, "{row.name}", {made}{kind})'
