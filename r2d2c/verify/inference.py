"""The composed model: no random numbers in it, and outputs that depend on inputs."""

from __future__ import annotations

from r2d2c.verify.context import Context, closure


def check_random(c: Context) -> None:
    random = {name for name, op in c.ops.items() if "random" in op.traits and "train_only" not in op.traits}
    for node in c.inference.body.nodes:
        if node.op in random:
            c.sink.report(
                "E481",
                node.origin,
                f"`{node.op}` would draw random numbers when the model is used",
                fix="`noise(x)` and `dropout(x)` are the identity then; or draw in a representative or a loss",
            )


def check_outputs(c: Context) -> None:
    nodes = {node.id: node for node in c.inference.body.nodes}
    spans = {output.name: output.span for output in c.spec.outputs}
    for port in c.inference.body.outputs:
        if not any(nodes[id_].op == "port" for id_ in closure(nodes, [port.value])):
            message = f"the output `{port.name}` does not depend on any input: it is always the same"
            c.sink.report("W454", spans.get(port.name), message)
