"""`teach`: how much each loss teaches a representative, c_ij = ∂d_i/∂L_j.

For a `teach` that is linear in the losses the coefficients are numbers; else they are values that the training graph
computes from the losses.
"""

from __future__ import annotations

from r2d2c.graph import Region, Value

_LINEAR = ("add", "sub", "mul", "div", "neg")


def linear_form(region: Region) -> dict[str, float] | None:
    """The losses' factors in a region that is a weighted sum of its input ports, or None if it is not."""
    forms: dict[Value, dict[str, float]] = {}
    for node in region.nodes:
        value = Value(node.id)
        if node.op == "port":
            forms[value] = {node.attrs["name"]: 1.0}
        elif node.op == "constant":
            forms[value] = {"": float(node.attrs["value"])}
        elif node.op in _LINEAR:
            operands = [forms.get(v) if v is not None else None for v in node.inputs]
            if any(form is None for form in operands):
                return None
            form = _combine(node.op, [dict(f) for f in operands if f is not None])
            if form is None:
                return None
            forms[value] = form
        else:
            return None
    total = forms.get(region.outputs[0].value)
    return None if total is None else {name: factor for name, factor in total.items() if name}


def _combine(op: str, operands: list[dict[str, float]]) -> dict[str, float] | None:
    left = operands[0]
    if op == "neg":
        return {name: -factor for name, factor in left.items()}
    right = operands[1]
    if op in ("add", "sub"):
        sign = 1.0 if op == "add" else -1.0
        return {n: left.get(n, 0.0) + sign * right.get(n, 0.0) for n in {**left, **right}}
    if op == "mul" and set(left) <= {""}:
        left, right = right, left
    if not set(right) <= {""}:
        return None
    factor = right.get("", 0.0)
    if op == "div":
        if factor == 0.0:
            return None
        factor = 1.0 / factor
    return {name: f * factor for name, f in left.items()}


def mentioned(region: Region) -> list[str]:
    """The losses that a `teach` names."""
    return [port.name for port in region.inputs]
