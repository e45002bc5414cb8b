"""Diagnostics 360-364: sets of places, and what is wired by predicates on them."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

PLACES: tuple[Entry, ...] = (
    Entry(
        "E360",
        "a set of places that is none",
        """\
A set of places is `grid(8, 8)` with `spacing`, `ball(32)` with `radius`, `random(64)` with `size`, or `given(…)` with
its points; `at` or `z` says where. `learned(…)` of one of these makes the coordinates parameters that begin there.

    places: {retina: 8 * 8}
    places: {retina: grid(8, 8), above: ball(32, radius=4, z=1), free: learned(grid(8, 8, z=2))}""",
    ),
    Entry(
        "E361",
        "places that cannot be",
        """\
Sets have 1 to 100,000 points, coordinates are finite numbers, and sizes are above 0. Numbers may be dims that are
known, and arithmetic. A table of two sets has at most 33,554,432 pairs of points.

    places: {retina: grid(0, 8)}
    places: {retina: grid(8, 8, spacing=0.5)}""",
    ),
    Entry(
        "E362",
        "a predicate on places that is none",
        """\
`where` says of two points whether they are wired: comparisons, with `and`, `or` and `not`, of `distance`, `plane` (the
distance in x and y), `step` (z of the target minus z of the source), `dx`, `dy` and `dz`.

    h = wired(x, retina, middle, distance)
    h = wired(x, retina, middle, step == 1 and plane <= 1)""",
    ),
    Entry(
        "E363",
        "no wires at all",
        """\
The predicate holds for no pair of points, so nothing is read. Sets that are not placed with `z` or `at` are all around
the origin, and a grid has the spacing 1.

    h = wired(x, retina, middle, distance < 0.5)
    h = wired(x, retina, middle, distance < 1.5)""",
    ),
    Entry(
        "W364",
        "points without wires",
        """\
Some points of the target read nothing: their values are their biases, whatever comes in. Make the radius larger, or the
sets more alike.

    h = wired(x, retina, middle, distance < 1)
    h = wired(x, retina, middle, distance < 2)""",
    ),
)
