"""What is wired by predicates on places: whether there are wires, for every point that is to have some."""

from __future__ import annotations

from r2d2c.places import Rule
from r2d2c.verify.context import Context


def check_places(c: Context) -> None:
    """Predicates that hold for no pair of points, or leave points without a wire."""
    seen: set[Rule] = set()
    for row in c.graph.storage.values():
        rule = row.init.args[0] if row.init.kind in ("places", "wired") else None
        if not isinstance(rule, Rule) or rule in seen or rule.source is None or rule.target is None:
            continue
        seen.add(rule)
        source, target, wires = rule.source, rule.target, rule.draw(c.graph.seed)
        missing = target.count - int(wires.any(axis=1).sum())
        also = [(source.origin, f"`{source.name}`, {source}"), (target.origin, f"`{target.name}`, {target}")]
        first = " where they begin" if source.learned or target.learned else ""
        if missing == target.count:
            message = (
                f"`{rule}` holds for no point of `{source.name}` and `{target.name}`{first}: nothing is wired"
            )
            c.sink.report(
                "E363", rule.origin or row.origin, message, also=also, fix="allow a larger distance"
            )
        elif missing:
            message = f"{missing} of the {target.count} points of `{target.name}` read no point of `{source.name}`{first}"
            fix = "allow a larger distance, or place them closer"
            c.sink.report("W364", rule.origin or row.origin, message, also=also, fix=fix)
