"""The legality table: what the pipeline makes is legal, and broken graphs are refused with what is wrong."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from r2d2c import loads
from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import CORE_OPS, Credit, Graph, Node, Port, Storage, Value
from r2d2c.passes import legality
from r2d2c.passes.inline import inference_graph
from r2d2c.passes.legality import BY_FORM, KINDS, TABLE, IllegalGraph, check
from r2d2c.passes.pipeline import TRAINING, Attach, Flatten, Tables
from r2d2c.passes.training import training_graph

SPEC = """\
r2d2c: 1
model: small
dims: {D: 6, H: 4, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
blocks:
  layer(x): |
    return x |> linear(H) |> batch_norm |> relu
tasks:
  encode:
    behavior: h = x |> layer |> layer
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
  classify:
    behavior: logits = linear(encode.h, C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: local, feed: encode.r}
outputs:
  logits: classify.logits
"""


@pytest.fixture(scope="module")
def checked() -> Checked:
    return loads(SPEC)


def graph_of(checked: Checked, form: str) -> Graph:
    typed = checked.graph
    tables = Tables(checked.ops, rules(), {})
    attached = Attach(tables).run(typed, Sink())
    return {
        "typed": lambda: typed,
        "attached": lambda: attached,
        "flat": lambda: Flatten(tables).run(attached, Sink()),
        "training": lambda: training_graph(typed, checked.ops, rules()),
        "inference": lambda: inference_graph(typed),
    }[form]()


def body(graph: Graph, change: Callable[[list[Node]], list[Node]]) -> Graph:
    main = replace(graph.body, nodes=tuple(change(list(graph.body.nodes))))
    return graph.with_(regions={**graph.regions, main.name: main})


def first(nodes: list[Node], op: str) -> int:
    return next(i for i, node in enumerate(nodes) if node.op == op)


def swap(kind: str, /, **changes: object) -> Callable[[Graph], Graph]:
    """Change the first node of an op."""

    def change(nodes: list[Node]) -> list[Node]:
        at = first(nodes, kind)
        nodes[at] = replace(nodes[at], **changes)  # type: ignore[arg-type]
        return nodes

    return lambda graph: body(graph, change)


def without_types(graph: Graph) -> Graph:
    return graph.with_(types={})


def untyped_storage(graph: Graph) -> Graph:
    return graph.with_(storage={n: replace(row, type=None) for n, row in graph.storage.items()})


def other_credit(graph: Graph) -> Graph:
    return graph.with_(links=tuple(replace(link, credit=Credit("magic")) for link in graph.links))


def drop_visit(graph: Graph) -> Graph:
    return graph.with_(visits=graph.visits[1:])


def frozen_row(graph: Graph) -> Graph:
    name = next(n.attrs["storage"] for n in graph.body.nodes if n.op == "accumulate")
    row: Storage = graph.storage[name]
    return graph.with_(storage={**graph.storage, name: replace(row, kind="frozen")})


def circle(graph: Graph) -> Graph:
    region = graph.regions["encode.h.layer"]
    call = next(n for n in graph.regions["encode"].nodes if n.op == "call")
    again = replace(call, id="again()", inputs=(region.inputs[0].value,))
    looped = replace(region, nodes=(*region.nodes, again))
    return graph.with_(
        regions={**graph.regions, looped.name: looped}, types={**graph.types, Value("again()"): None}
    )


BROKEN: tuple[tuple[str, Callable[[Graph], Graph], str], ...] = (
    ("typed", lambda g: g.with_(stage="resolved"), "its stage is resolved, not typed"),
    ("typed", lambda g: g.with_(main="nothing"), "there is no region nothing"),
    ("typed", lambda g: body(g, lambda n: n[::-1]), "reads .*, which is not made before it in model"),
    ("typed", lambda g: body(g, lambda n: [*n, n[0]]), "the id model/x is taken twice"),
    ("typed", swap("call", attrs={"region": "gone"}), "encode calls gone, which does not exist"),
    ("typed", swap("call", inputs=()), "encode gives 0 inputs to encode, which has 1"),
    ("typed", swap("call", outputs=("h", "g")), "encode has 2 outputs, and encode gives 1"),
    ("typed", swap("call", inputs=(Value("model/x", 1),)), "encode reads output 1 of model/x, which has 1"),
    (
        "typed",
        swap("call", op="vjp", attrs={"outputs": 1, "wrt": 0, "params": (), "weights": ()}),
        "`vjp` may not be",
    ),
    ("typed", swap("call", op="lniear"), "there is no op `lniear`"),
    ("typed", without_types, "output 0 of encode.h.layer/x has no type"),
    ("typed", untyped_storage, "the storage encode.h.layer.out.linear.weight has no type"),
    ("typed", lambda g: g.with_(storage={}), "reads the storage encode.h.layer.*, which does not exist"),
    ("typed", lambda g: g.with_(outputs=("wrong",)), "its outputs are logits, and its table says wrong"),
    ("typed", circle, "regions call each other in a circle: .*encode.h.layer"),
    ("attached", other_credit, "the link encode -> classify has the credit magic, which no rule is called"),
    ("flat", swap("leaf", op="call", attrs={"region": "model"}), "`call` may not be part of it"),
    ("training", drop_visit, "its visits do not hold its nodes in order: .* is in none"),
    ("training", frozen_row, "accumulates into .*, which is frozen"),
    ("training", swap("vjp", inputs=()), "cotangents and . weights for"),
    ("training", swap("vjp", outputs=("d",)), "has 1 outputs for .* gradients"),
    ("training", swap("update", attrs={"storage": "nothing"}), "updates nothing, which is nothing"),
    ("inference", lambda g: g.with_(targets=("y",)), "it has the targets y"),
    ("inference", swap("linear", op="leaf"), "`leaf` may not be part of it"),
    (
        "inference",
        lambda g: body(g, lambda n: [Node("model/y", "port", (), {"name": "y"}, ("y",)), *n]),
        "model/y is a port that is no input: a target\\?",
    ),
)


@pytest.mark.parametrize("form", [row.form for row in TABLE if row.form != "resolved"])
def test_what_the_pipeline_makes_is_legal(checked: Checked, form: str) -> None:
    check(graph_of(checked, form), checked.ops, rules=rules())


@pytest.mark.parametrize(
    ("form", "change", "message"), BROKEN, ids=[f"{f}: {re.sub(r'[^a-z ]', '', m)}" for f, _, m in BROKEN]
)
def test_a_broken_graph(checked: Checked, form: str, change: Callable[[Graph], Graph], message: str) -> None:
    broken = change(graph_of(checked, form))
    with pytest.raises(IllegalGraph, match=f"(?s)the {form} graph of `small` is not legal:.*{message}"):
        check(broken, checked.ops, form, rules())  # type: ignore[arg-type]


def test_a_region_that_is_read_from_another(checked: Checked) -> None:
    inner = checked.graph.regions["classify"]
    port = Port("logits", Value("encode"))
    broken = checked.graph.with_(
        regions={**checked.graph.regions, "classify": replace(inner, outputs=(port,))}
    )
    with pytest.raises(IllegalGraph, match="the output logits of classify is not made in it"):
        check(broken, checked.ops)


def test_the_table_names_only_what_there_is() -> None:
    assert set(BY_FORM) == {row.form for row in TABLE}
    for row in TABLE:
        assert row.core <= CORE_OPS.keys() and row.kinds <= KINDS
    assert all(each.gives in BY_FORM for each in TRAINING)


def test_a_pass_that_breaks_a_graph_is_caught_at_once(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert legality.enabled()  # in all tests
    monkeypatch.setattr("r2d2c.passes.pipeline.flatten", lambda graph: graph)
    with pytest.raises(IllegalGraph, match="the flat graph of `small` is not legal"):
        training_graph(checked.graph, checked.ops, rules())
    monkeypatch.setenv("R2D2C_CHECK", "0")
    assert not legality.enabled()
