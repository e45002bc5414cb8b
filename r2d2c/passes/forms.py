"""`choose_forms`: hypernets become ordinary nodes, in the form that costs the least.

Runs on the typed graph. Every op whose parameters are generated is replaced by nodes that give the same values without
those parameters, or with them where nothing else is possible. The equations are in `r2d2c/hypernets.py`, the choice
between two forms of a full linear in `forms_rule.py`; which was taken is in `Graph.generated`, for `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from r2d2c.credit.rewrite import Rewriter
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Node, Region, Storage, Value
from r2d2c.hypernets import Generated, Hypernet
from r2d2c.infer import Signatures
from r2d2c.ops.record import Op, ShapeError
from r2d2c.passes.forms_body import FormsBody
from r2d2c.passes.forms_lead import Lead, lead_of
from r2d2c.passes.forms_matrix import MATRIX, matrix

NORMS = ("layer_norm", "rms_norm", "group_norm", "instance_norm")


def choose_forms(graph: Graph, ops: Mapping[str, Op], sink: Sink) -> Graph:
    """The graph without `code` and `generate` nodes. What has no form goes to the sink, and the graph stays."""
    wanted = [
        name
        for name, region in graph.regions.items()
        if any(node.op in ("code", "generate") for node in region.nodes)
    ]
    return Forms(graph, ops, sink).run(wanted) if wanted else graph


class Forms:
    """The pass. ``storage`` is the table while it grows; the rows that are generated go."""

    def __init__(self, graph: Graph, ops: Mapping[str, Op], sink: Sink) -> None:
        self.graph, self.ops, self.sink = graph, ops, sink
        self.rewriter = Rewriter(graph, ops)
        self.signatures = Signatures(ops)
        self.storage: dict[str, Storage] = {}
        self.gone: set[str] = set()
        self.generated: list[Generated] = []
        # The hypernets that are to split what they generate, and those that had something to split.
        self.splitting: dict[str, Hypernet] = {}
        self.split: set[str] = set()

    def run(self, wanted: Sequence[str]) -> Graph:
        before = len(self.sink.diagnostics)
        for name in wanted:
            self._region(self.graph.regions[name])
        if any(d.severity == "error" for d in self.sink.diagnostics[before:]):
            return self.graph
        for name in self.splitting.keys() - self.split:
            message = f"`chunks` splits matrices, and `{name}` generates none"
            self.sink.report("E277", self.splitting[name].origin, message, fix="remove `chunks`")
        return self.graph.with_(
            regions=self.rewriter.regions,
            types=self.rewriter.types,
            storage=self._table(),
            generated=tuple(self.generated),
        )

    def _table(self) -> dict[str, Storage]:
        """The storage table, with what generates a parameter in its place."""
        found: dict[str, Storage] = {}
        for name, row in self.graph.storage.items():
            if name not in self.gone:
                found[name] = row
                continue
            net = name.partition(".")[0]
            codes = [new for new in self.storage if new.startswith(f"{net}.code.") or new == f"{net}.parts"]
            for new in [*codes, *(new for new in self.storage if new.startswith(f"{name}."))]:
                found.setdefault(new, self.storage[new])
        return found

    def _region(self, region: Region) -> None:
        body = FormsBody(self, region)
        made: dict[str, Node] = {}
        for node in region.nodes:
            node = replace(node, inputs=tuple(v and body.moved.get(v, v) for v in node.inputs))
            body.origin = node.origin
            body.place = node.id.removeprefix(f"{region.name}.").rstrip("()")
            if node.op == "code":
                body.codes(node)
            elif node.op == "generate":
                made[node.id] = node
                self.gone.add(node.attrs["storage"])
            elif any(value is not None and value.node in made for value in node.inputs):
                self._consumer(body, node, made)
            else:
                body.nodes.append(node)
        body.finish()

    def _consumer(self, body: FormsBody, node: Node, made: Mapping[str, Node]) -> None:
        """Put the nodes of a form in the place of an op with generated parameters."""
        names = self.signatures[node.op].names
        inputs = dict(zip(names, node.inputs, strict=False))
        given = {k: made[v.node] for k, v in inputs.items() if v is not None and v.node in made}
        first = next(iter(given.values()))
        body.begin(first, node)
        rows = {name: self.graph.storage[generate.attrs["storage"]] for name, generate in given.items()}
        refused = self._refused(node, rows)
        if refused is not None:
            self.refuse(node, body.net, *refused)
            return
        assert node.inputs[0] is not None
        x, code = body.type(node.inputs[0]), body.type(body.code)
        lead = lead_of(node, x, code)
        if lead is None:
            contexts = f"[{', '.join(map(str, code.dims[:-1]))}]"
            name = next(iter(rows.values())).name
            message = f"`{name}` is for `{node.op}` on {x}, and `from` has one context for each of {contexts}"
            fix = "the dims of `from` but the last are the first ones of the value, [B, …], or the last before its width"
            self.sink.report("E331", node.origin, message, also=self._places(body.net), fix=fix)
            return
        try:
            if node.op in MATRIX:
                value = matrix(self, body, node, rows, lead)
            elif node.op in NORMS:
                value = self._norm(body, node, rows, lead)
            else:
                value = self._other(body, node, rows, lead)
        except ShapeError as error:
            self.refuse(node, body.net, str(error), error.fix)
            return
        if value is not None:
            body.become(value, node)

    def _refused(self, node: Node, rows: Mapping[str, Storage]) -> tuple[str, str | None] | None:
        odd = next((name for name, row in rows.items() if row.kind != "param"), None)
        if odd is not None:
            message = f"`{odd}` of `{node.op}` is no parameter but a {rows[odd].kind}: it cannot be generated"
            return message, "a norm within a sample can be: `layer_norm`, `group_norm`"
        if node.op in MATRIX or node.op in NORMS:
            return None
        values = self.ops[node.op].values
        if values[0].kind == "param":
            return (
                f"`{node.op}` takes no value, so it has no samples to generate for",
                "add what it gives elsewhere",
            )
        args = {arg.name: arg for arg in values}
        name = next((name for name in rows if "per sample" not in args[name].doc), None)
        if name is None:
            return None
        return f"`{node.op}` takes no `{name}` for every sample", "put it outside of what the hypernet makes"

    def refuse(self, node: Node, net: Hypernet, message: str, fix: str | None = None) -> None:
        """Say that an op has no form for what is generated for it."""
        self.sink.report("E332", node.origin, message, also=self._places(net), fix=fix)

    def _places(self, net: Hypernet) -> list[tuple[Any, str]]:
        uses = [
            node.origin
            for region in self.graph.regions.values()
            for node in region.nodes
            if node.op == "call" and node.attrs["region"] == net.name
        ]
        return [(net.origin, "this hypernet"), *((use, "used here") for use in uses[:1])]

    def _norm(self, body: FormsBody, node: Node, rows: Mapping[str, Storage], lead: Lead) -> Value:
        """The norm without what is generated, which is multiplied and added behind it."""
        names = self.signatures[node.op].names
        plain: list[Any] = [
            None if name in rows else value for name, value in zip(names, node.inputs, strict=False)
        ]
        late = {name: value for name, value in zip(names, plain, strict=False) if value is not None}
        if "weight" in rows and "bias" in late:
            plain[names.index("bias")] = None
        y = body.node(node.op, *plain, name=f"{body.place}.plain", **node.attrs)
        for name, op in (("weight", "mul"), ("bias", "add")):
            if name in rows:
                y = body.node(
                    op, y, body.aligned(body.whole(rows[name], lead), lead), name=f"{body.place}.{op}"
                )
            elif name == "bias" and "weight" in rows and name in late:
                y = body.node(
                    op, y, body.aligned(late[name], replace(lead, kind="shared")), name=f"{body.place}.{op}"
                )
        return y

    def _other(self, body: FormsBody, node: Node, rows: Mapping[str, Storage], lead: Lead) -> Value:
        """The op with a parameter for every sample."""
        names = self.signatures[node.op].names
        inputs: list[Any] = [
            body.whole(rows[name], lead) if name in rows else value
            for name, value in zip(names, node.inputs, strict=False)
        ]
        return body.node(node.op, *inputs, name=f"{body.place}.made", **node.attrs)
