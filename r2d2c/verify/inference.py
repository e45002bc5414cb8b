"""The composed model: no random numbers in it, and outputs that depend on inputs."""

from __future__ import annotations

from r2d2c.graph import USES, Node, Value
from r2d2c.verify.context import Context


class _Behind:
    """What a value of the model is computed from, across the boundaries of regions, without inlining them."""

    def __init__(self, c: Context) -> None:
        self.regions = c.graph.regions
        self.nodes: dict[str, Node] = {}
        self.given: dict[str, list[Value]] = {}
        for region in self.regions.values():
            for node in region.nodes:
                self.nodes[node.id] = node
                if node.op in USES:
                    for port, value in zip(
                        self.regions[node.attrs["region"]].inputs, node.inputs, strict=True
                    ):
                        if value is not None:
                            self.given.setdefault(port.value.node, []).append(value)

    def nodes_of(self, value: Value) -> set[str]:
        found: set[str] = set()
        stack, nodes = [value], self.nodes
        while stack:
            value = stack.pop()
            if value.node in found:
                continue
            node = nodes[value.node]
            if node.op == "call":
                stack.append(self.regions[node.attrs["region"]].outputs[value.port].value)
                continue
            if node.op == "loop":
                # What one step makes may have come from any value that the step before carried.
                found.add(node.id)
                stack.extend(port.value for port in self.regions[node.attrs["region"]].outputs)
                continue
            found.add(node.id)
            inputs = self.given.get(node.id, ()) if node.op == "port" else node.inputs
            stack.extend([v for v in inputs if v is not None])
        return found


def check_outputs(c: Context) -> None:
    """Outputs that do not depend on any input, and what they draw at random."""
    random = {name for name, op in c.ops.items() if "random" in op.traits and "train_only" not in op.traits}
    spans = {output.name: output.span for output in c.spec.outputs}
    inputs = {port.value.node for port in c.graph.body.inputs}
    behind = _Behind(c)
    for port in c.graph.body.outputs:
        needed = behind.nodes_of(port.value)
        if not needed & inputs:
            message = f"the output `{port.name}` does not depend on any input: it is always the same"
            c.sink.report("W454", spans.get(port.name), message)
        drawn = [behind.nodes[id_] for id_ in needed if behind.nodes[id_].op in random]
        for node in sorted(drawn, key=lambda n: n.id):
            c.sink.report(
                "E481",
                node.origin,
                f"`{node.op}` would draw random numbers when the model is used",
                fix="`noise(x)` and `dropout(x)` are the identity then; or draw in a representative",
            )
