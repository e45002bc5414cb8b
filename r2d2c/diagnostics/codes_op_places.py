"""Diagnostics 355 and 356: where the columns and the ops of an op graph are."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

OP_PLACES: tuple[Entry, ...] = (
    Entry(
        "E355",
        "places of an op graph that are none",
        """\
`places` of an op graph names a set of the section `places`: its points are where the input columns lie, in their order.
If they are learned, something has to teach them; where the ops are follows from them and needs no teaching.

    places: {retina: "grid(8, 8)"}
    op_graphs: {layer: {ops: [add], capacity: 8, places: retinas}}
    op_graphs: {layer: {ops: [add], capacity: 8, places: retina}}""",
    ),
    Entry(
        "E356",
        "a wire that no op satisfies",
        """\
`wire` must hold from the place of every column that a new op reads to the place of the op. An op lies in the middle of
what it reads in x and y, and 1 above the highest of it in z: its distance to what it reads is 1 at least, and `step` is
1 where all of that is in one layer.

    grow: {every: epochs(1), add: 8, wire: distance < 1}
    grow: {every: epochs(1), add: 8, wire: step == 1 and plane <= 1}""",
    ),
)
