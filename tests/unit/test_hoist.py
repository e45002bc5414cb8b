"""What is the same at every step of a loop leaves it, and nothing else does."""

import pytest
import torch

import r2d2c
from r2d2c.graph import Graph
from r2d2c.loops import loop_of
from r2d2c.model import Model
from r2d2c.passes import pipeline

SPEC = """
r2d2c: 1
dims: {D: 8, H: 4, C: 3, depth: 1..8 = 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
loops:
  refine(data):
    repeat: depth
    carry: {h: "f32[B, H] = zeros"}
    body: |
      BODY
tasks:
  classify:
    behavior: |
      BEHAVIOR
    distance: cross_entropy(logits, y)
outputs:
  logits: classify.logits
"""
PLAIN = "logits = linear(refine(x), C)"


def compiled(body: str, behavior: str = PLAIN) -> Model:
    text = SPEC.replace("BODY", body.replace("\n", "\n      ")).replace("BEHAVIOR", behavior)
    return r2d2c.compile(r2d2c.loads(text)).double()


def ops_of(graph: Graph, step: str | None = None) -> list[str]:
    nodes = graph.body.nodes if step is None else graph.regions[step].nodes
    return sorted(node.op for node in nodes if node.op not in ("port", "param", "constant", "loop"))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, 3, (5,), generator=generator)}


def results(model: Model, depth: int) -> dict[str, torch.Tensor]:
    model.zero_grad()
    step = model.learn(**batch(), depth=depth)  # type: ignore[arg-type]
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **step.outputs, **model(x=batch()["x"], depth=depth)}


BODIES = {
    "a product of the data": "h = tanh(linear(data, H) + linear(h, H))",
    "numbers and sizes": "h = tanh(0.5 * linear(data / depth, H) + h + 1)",
    "a value that leaves": "u = relu(linear(data, H))\nh = h + u * u",
    "nothing": "h = tanh(linear(h + data[:, :4], H))",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_numbers_are_those_of_the_loop_as_it_is_written(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hoisted = compiled(body)
    found = {depth: results(hoisted, depth) for depth in (1, 3, 8)}
    monkeypatch.setattr("r2d2c.passes.pipeline.hoist", lambda graph, ops: graph)
    monkeypatch.setattr("r2d2c.passes.inline.hoist", lambda graph, ops: graph)
    plain = compiled(body)
    for depth, mine in found.items():
        for name, value in results(plain, depth).items():
            torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-13)


def test_a_product_of_the_data_stands_before_the_loop() -> None:
    model = compiled(BODIES["a product of the data"])
    for graph in (model._inference_graph, model._training_graph):
        assert ops_of(graph, "refine.step") == ["add", "linear", "tanh"]
        assert ops_of(graph).count("linear") == 2  # that of the data, and the read-out


def test_calls_that_would_compute_the_same_share_it() -> None:
    behavior = (
        "a = refine(x)\n      b = refine(x)\n      c = refine(2 * x)\n      logits = linear(a + b + c, C)"
    )
    model = compiled(BODIES["a product of the data"], behavior)
    graph = model._inference_graph
    assert sum(node.op == "loop" for node in graph.body.nodes) == 3
    assert ops_of(graph).count("linear") == 3  # of x, of 2x, and the read-out


def test_what_is_drawn_stays() -> None:
    model = compiled("h = h + noise(linear(data, H), 0.5)")
    assert ops_of(model._training_graph, "refine.step") == ["add", "noise"]
    assert "linear" in ops_of(model._training_graph)


def test_parameters_of_each_step_stay() -> None:
    text = SPEC.replace("BODY", BODIES["a product of the data"]).replace("BEHAVIOR", PLAIN)
    model = r2d2c.compile(r2d2c.loads(text.replace("    carry:", "    parameters: per_step\n    carry:")))
    assert ops_of(model._inference_graph, "refine.step").count("linear") == 2


def test_it_leaves_all_loops_that_it_is_the_same_in() -> None:
    text = SPEC.replace("BODY", "g = linear(data, H)\n      h = tanh(g + h)").replace(
        "tasks:",
        "  outer(data):\n    repeat: 2\n    carry: {s: 'f32[B, H] = zeros'}\n    body: s = s + refine(data)\ntasks:",
    )
    model = r2d2c.compile(r2d2c.loads(text.replace("BEHAVIOR", "logits = linear(outer(x), C)")))
    graph = model._inference_graph
    assert "linear" not in ops_of(graph, "refine.step") + ops_of(graph, "outer.step")
    assert ops_of(graph).count("linear") == 2
    for node in graph.body.nodes:
        if node.op == "loop":
            assert len(node.inputs) == len(graph.regions[node.attrs["region"]].inputs)
            assert loop_of(node).name == "outer"


def test_it_is_a_pass() -> None:
    assert [each.__name__ for each in pipeline.PREPARE] == ["Attach", "Flatten", "Hoist", "Rewire"]
