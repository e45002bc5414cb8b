"""What credit rules add to a picture: their storage, their losses, and the δs that come from no loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from r2d2c.credit.record import CreditRule
from r2d2c.graph import Graph
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from r2d2c.draw import Picture


def add_credit(
    out: Picture,
    graph: Graph,
    training: Graph,
    rules: Mapping[str, CreditRule],
    matrix: Mapping[str, Mapping[str, str | None]],
    heads: Mapping[str, str],
    home: Mapping[str, str],
) -> None:
    """A box for every place with storage or a δ of its own, ``encode.synthetic``, and one for every auxiliary loss.

    heads: the box of a behavior or representative, by region. home: the behavior or representative of every region.
    """
    from r2d2c.draw import DATA, TRAINS

    boxes: dict[str, list[str]] = {}
    fixed: set[str] = set()
    of: dict[str, str] = {}
    # The block that an option names, an inverse say, is a region of the spec's own graph.
    blocks = {name for name, region in graph.regions.items() if region.kind == "credit"}
    for name, row in training.storage.items():
        if name not in graph.storage or home.get(row.owner) in blocks:
            place = of[name] = place_of(name, home.get(row.owner, row.owner))
            part = name.removeprefix(f"{place}.").removeprefix(f"{place.partition('.')[0]}.")
            boxes.setdefault(place, []).append(f"{part} {_shown(row.type)}")
            if row.kind == "frozen":
                fixed.add(place)
    losses = {
        name: loss
        for name, loss in training.losses.items()
        if loss.rule is not None and name not in graph.losses
    }
    for row_name in matrix:
        if row_name not in training.losses and row_name not in graph.losses:
            boxes.setdefault(place_of(row_name, ""), [])
    for place, parts in boxes.items():
        task, _, rule = place.partition(".")
        known = rules.get(rule)
        lines = [place, *parts[:3], f"and {len(parts) - 3} more" if len(parts) > 3 else ""]
        key = out.add(f"credit {place}", "credit", lines, task if task in graph.tasks else None)
        if place in fixed and task in heads:
            out.connect(key, heads[task], "link", "B", known.colour if known is not None else DATA)
    for name, loss in losses.items():
        weight = f"weight {loss.weight:g}" if loss.weight != 1.0 else ""
        out.add(f"loss {name}", "loss", [f"{name} loss", f"credit {loss.rule}", weight], loss.owner)
    for row_name, entries in matrix.items():
        start = f"loss {row_name}"
        if start not in out.shapes:
            start = f"credit {place_of(row_name, '')}"
        for parameter, entry in entries.items():
            own = graph.storage.get(parameter)
            end = (
                f"credit {of[parameter]}"
                if parameter in of
                else heads.get(home.get(own.owner, "") if own else "", "")
            )
            if (
                entry is not None
                and end in out.shapes
                and start in out.shapes
                and (parameter in of or row_name not in graph.losses)
            ):
                out.connect(start, end, "trains", "" if entry == "gradient" else entry, TRAINS)


def place_of(name: str, owner: str) -> str:
    """``encode.synthetic`` of ``encode.synthetic.predictor.weight``, ``classify.feedback`` of the B of one of its layers."""
    parts = name.split(".")
    return f"{owner or parts[0]}.feedback" if parts[-1] == "feedback" else ".".join(parts[:2])


def _shown(type_: TensorType | None) -> str:
    from r2d2c.draw_bodies import plain_type

    return plain_type(type_)


__all__ = ["add_credit", "place_of"]
