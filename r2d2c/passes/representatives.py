"""Representatives in the backward pass: which losses teach them, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r2d2c.graph import Graph, Region, Value
from r2d2c.passes.gradients import Gradients
from r2d2c.passes.reach import Cone, Reach
from r2d2c.passes.schedule import Root
from r2d2c.passes.teach import linear_form


@dataclass(slots=True)
class Representative:
    """A leaf, the value behind it, its gradient's cone, and how much each root teaches it.

    reached: the names of the roots whose gradient arrives at the leaf. coefficients: c_ij by name; None where
    `teach` is not linear, and they are values of the graph.
    """

    leaf: Value
    value: Value
    task: str
    cone: Cone
    reached: list[str]
    coefficients: dict[str, float] | None


def find_representatives(
    graph: Graph, reach: Reach, roots: Sequence[Root], teach: Mapping[str, Region]
) -> list[Representative]:
    """The representatives that losses read. Without `teach`, all that reaches one teaches it."""
    found = []
    for node in graph.body.nodes:
        if node.op != "leaf" or node.attrs.get("cut") or node.inputs[0] is None:
            continue
        leaf, task = Value(node.id), node.id.split(".")[0]
        reached = [root.name for root in roots if leaf in root.cone.leaves]
        coefficients: dict[str, float] | None = dict.fromkeys(reached, 1.0)
        if task in teach:
            linear = linear_form(teach[task])
            coefficients = None if linear is None else {n: c for n, c in linear.items() if n in reached and c}
        found.append(
            Representative(leaf, node.inputs[0], task, reach.cone([node.inputs[0]]), reached, coefficients)
        )
    return found


def dynamic_coefficients(out: Gradients, visit: int, r: Representative, region: Region) -> dict[str, Value]:
    """w_j ∂d/∂l_j with l_j = w_j L_j, as values, for a `teach` that is not linear."""
    prefix, losses = f"{r.leaf.node}.teach", out.graph.losses
    mapping: dict[Value, Value] = {}
    leaves: dict[str, Value] = {}
    for node in region.nodes:
        value, id_ = Value(node.id), f"{prefix}/{node.id}"
        if node.op == "port":
            loss = losses[node.attrs["name"]]
            type_ = out.types[loss.value]
            source = loss.value
            if loss.weight != 1.0:
                number = out.number(visit, f"{id_}.weight", loss.weight)
                (source,) = out.add(
                    visit, f"{id_}.weighted", "mul", (loss.value, number), {}, ("weighted",), [type_]
                )
            (leaf,) = out.add(visit, f"{id_}.leaf", "leaf", (source,), {}, (f"{loss.name}",), [type_])
            mapping[value] = leaves[loss.name] = leaf
        else:
            inputs = tuple(mapping[v] for v in node.inputs if v is not None)
            types = [out.types[Value(node.id, p)] for p in range(len(node.outputs))]
            made = out.add(visit, id_, node.op, inputs, dict(node.attrs), node.outputs, types)
            mapping.update({Value(node.id, p): v for p, v in enumerate(made)})
    total = mapping[region.outputs[0].value]
    names = [name for name in leaves if name in r.reached]
    vjp = f"vjp({prefix})"
    out.vjp(visit, vjp, [total], [1.0], [], [leaves[name] for name in names], False)
    result = {}
    for name in names:
        (part,) = out.parts.pop(leaves[name])
        result[name] = out.times(visit, f"{vjp}.{name}", part, losses[name].weight, "c")
    return result
