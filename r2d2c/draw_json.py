"""A picture as JSON, for other programs that draw: its boxes and edges, links with their credit, and where units are.

    {"r2d2c": 1,                     the version of the language
     "model": "placed", "stage": "tasks",
     "nodes": [{"id", "kind", "name", "text": ["wired · relu", …], "group", "place"}, …],
     "edges": [{"from", "to", "kind", "label"}, …],
     "groups": [{"id", "title", "parent"}, …],
     "tasks": [{"name", "representative", "loss"}, …],
     "links": [{"from", "value", "to", "credit", "feed"}, …],
     "losses": [{"name", "weight", "task"}, …],
     "places": [{"name", "form", "learned", "storage", "points": [[x, y, z], …]}, …],
     "wires": [{"layer", "weight", "source", "target", "where", "count"}, …],
     "op_graphs": [{"name", "node", "inputs", "capacity", "place",
                    "nodes": [{"name", "kind", "args": ["x0", "n3", null], "round", "place": [x, y, z]}, …]}, …]}

``place`` of a node is the name of the set in `places` that its units are at, point by point along its last axis; points
are where they are when training begins. Of an op graph, ``place`` is the set that its input columns are at; an argument
that is null is a number of the op's own. Of a run, op graphs and learned points are as they have become. What does not
apply is null. The same spec gives the same text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from r2d2c.draw import Picture
from r2d2c.draw_op_graphs import to_data
from r2d2c.draw_places import places_of, wires_of
from r2d2c.graph import Graph
from r2d2c.opgraph import Topology
from r2d2c.places import coordinates


def to_json(
    picture: Picture,
    graph: Graph,
    stage: str,
    *,
    grown: Mapping[str, Topology] | None = None,
    learned: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> str:
    """The text. graph: the typed graph of the model, whatever stage the picture is of.

    grown: what op graphs have become, by name; learned: where points are now, by the name of their set.
    """
    whole: dict[str, Any] = {
        "r2d2c": 1,
        "model": graph.name,
        "stage": stage,
        "nodes": [
            {
                "id": shape.key,
                "kind": shape.kind,
                "name": shape.lines[0] if shape.lines else "",
                "text": list(shape.lines[1:]),
                "group": shape.group,
                "place": picture.places.get(shape.key),
            }
            for shape in picture.shapes.values()
        ],
        "edges": [
            {"from": arrow.start, "to": arrow.end, "kind": arrow.style, "label": arrow.label or None}
            for arrow in picture.arrows
        ],
        "groups": [
            {"id": key, "title": title, "parent": picture.parents.get(key)}
            for key, title in picture.groups.items()
        ],
        "tasks": [
            {"name": task.name, "representative": task.representative is not None, "loss": task.loss}
            for task in graph.tasks.values()
        ],
        "links": list(_links(graph)),
        "losses": [
            {"name": loss.name, "weight": loss.weight, "task": loss.owner} for loss in graph.losses.values()
        ],
        "places": [
            {
                "name": placing.name,
                "form": placing.form,
                "learned": placing.learned,
                "storage": placing.storage,
                "points": (learned or {}).get(placing.name) or coordinates(placing, graph.seed).tolist(),
            }
            for placing in places_of(graph).values()
        ],
        "wires": [asdict(wires) for wires in wires_of(graph)],
        "op_graphs": to_data(graph, grown),
    }
    return "{\n" + ",\n".join(f"  {_text(key)}: {_value(value)}" for key, value in whole.items()) + "\n}\n"


def _links(graph: Graph) -> Iterator[dict[str, Any]]:
    for link in graph.links:
        feed = None
        if link.feed is not None:
            port = graph.regions[link.feed.node].outputs[link.feed.port]
            feed = f"{link.feed_task or link.source_task}.{port.name}"
        yield {
            "from": link.source_task,
            "value": _named(graph, link.source.node, link.source.port),
            "to": link.target,
            "credit": str(link.credit),
            "feed": feed,
        }


def _named(graph: Graph, call: str, port: int) -> str:
    region = graph.regions.get(call)
    return f"{call}.{region.outputs[port].name}" if region is not None else call


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(value: Any) -> str:
    """A line for each entry of a list."""
    if not isinstance(value, list) or not value:
        return _text(value)
    return "[\n" + ",\n".join(f"    {_text(item)}" for item in value) + "\n  ]"
