"""What every credit rule keeps true: wiring and its proof, visits, merging, copies, files."""

from __future__ import annotations

import copy

import pytest

import r2d2c
from r2d2c.model import Model
from r2d2c.passes.training import training_graph
from r2d2c.prove import prove
from tests.unit.credit_oracle import CHAIN, CONV, DAG, assert_same, batch_of, gradients

RULES = [
    "backprop",
    "local",
    "feedback",
    "feedback(variant=sign, own=true)",
    "feedback(variant=uniform_sign)",
    "direct",
    "direct(scale=0.5)",
    "synthetic",
    "synthetic(labels=y, every=2)",
    "synthetic(bootstrap=false)",
    "target",
    "target(difference=false)",
    "alternate",
    "alternate(steps=2)",
    "predictive(steps=3)",
    "predictive(fixed=true, step=1, steps=3)",
    "equilibrium(steps=3)",
    "equilibrium(steps=3, symmetric=false)",
    "hebbian",
    "hebbian(variant=hebb)",
    "hebbian(variant=bcm)",
]
SHAPES = {"chain": CHAIN, "dag": DAG, "conv": CONV}

THREE = """
r2d2c: 1
inputs:
  x: f32[B, 5]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> linear(4, bias=false) |> tanh
  b:
    behavior: h = a.h |> linear(4, bias=false) |> tanh
  c:
    behavior: logits = linear(b.h, 3, bias=false)
    distance: cross_entropy(logits, y)
outputs:
  logits: c.logits
"""
A, B, C = "a.h.linear.weight", "b.h.linear.weight", "c.logits.linear.weight"
SA, SB = (f"{t}.synthetic.predictor.weight" for t in "ab")
IA, IB = (f"{t}.target.inverse.weight" for t in "ab")
# row: {parameter: entry}, entries that are None left out; biases of predictors and inverses are as their weights.
WIRING = {
    "backprop": {"c": {A: "gradient", B: "gradient", C: "gradient"}},
    "local": {"c": {C: "gradient"}},
    "feedback": {"c": {A: "rule:feedback", B: "rule:feedback", C: "gradient"}},
    "direct": {"c": {A: "rule:direct", B: "rule:direct", C: "gradient"}},
    "synthetic": {
        "c": {C: "gradient", SB: "rule:synthetic"},
        "a.synthetic": {SA: "gradient"},
        "b.synthetic": {SB: "gradient"},
        "a.synthetic.delta": {A: "rule:synthetic"},
        "b.synthetic.delta": {B: "rule:synthetic", SA: "rule:synthetic"},
    },
    "synthetic(bootstrap=false)": {
        "c": {C: "gradient", SA: "rule:synthetic", SB: "rule:synthetic"},
        "a.synthetic": {SA: "gradient"},
        "b.synthetic": {SB: "gradient"},
        "a.synthetic.delta": {A: "rule:synthetic"},
        "b.synthetic.delta": {B: "rule:synthetic"},
    },
    "target": {
        "c": {A: "rule:target", B: "rule:target", C: "gradient"},
        "a.target": {A: "gradient"},
        "b.target": {B: "gradient"},
        "a.target.inverse": {IA: "gradient"},
        "b.target.inverse": {IB: "gradient"},
    },
    "alternate": {
        "c": {A: "rule:alternate", B: "rule:alternate", C: "gradient"},
        "a.alternate": {A: "gradient"},
        "b.alternate": {B: "gradient"},
    },
    "predictive(steps=2)": {"c": {A: "rule:predictive", B: "rule:predictive", C: "gradient"}},
    "predictive(steps=1)": {"c": {B: "rule:predictive", C: "gradient"}},
    "predictive(fixed=true, step=1, steps=2)": {
        "c": {A: "rule:predictive", B: "rule:predictive", C: "gradient"}
    },
    "equilibrium(steps=2)": {"c": {A: "rule:equilibrium", B: "rule:equilibrium", C: "gradient"}},
    "hebbian": {"c": {C: "gradient"}, "a.hebbian": {A: "plastic"}, "b.hebbian": {B: "plastic"}},
}


def three(credit: str) -> Model:
    return r2d2c.compile(r2d2c.loads(THREE.replace("CREDIT", credit))).double()


@pytest.mark.parametrize("credit", WIRING)
def test_the_wiring_of_three_tasks(credit):
    model = three(credit)
    found = {
        row: {name: entry for name, entry in entries.items() if entry and not name.endswith(".bias")}
        for row, entries in model.wiring().items()
    }
    assert found == WIRING[credit]
    for row in model.wiring().values():
        for name, entry in row.items():
            if name.endswith(".bias"):
                assert entry == row[name.replace(".bias", ".weight")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("credit", RULES)
def test_the_wiring_is_proven(credit, shape):
    proof = prove(SHAPES[shape].model(credit))
    assert proof.ok, [str(f) for f in proof.failures]


@pytest.mark.parametrize("credit", WIRING)
def test_a_false_wiring_is_found_out(credit):
    """An entry turned around makes the proof fail there and nowhere else."""
    model = three(credit)
    true = model.wiring()
    proof = prove(model)
    assert proof.ok
    moved = {(entry.loss, entry.parameter): entry.moved for entry in proof.entries}
    rows = list(true)
    for row, name in ((rows[0], C), (rows[-1], A)):
        false = {key: dict(entries) for key, entries in true.items()}
        false[row][name] = None if false[row][name] else "gradient"
        model.wiring = lambda false=false: false  # type: ignore[method-assign]
        assert [(f.loss, f.parameter) for f in prove(model).failures] == [(row, name)]
        assert moved[row, name] != (false[row][name] is not None)


def definition_of(model: Model) -> Model:
    """The model with the node-by-node definition of its gradients."""
    other = copy.deepcopy(model)
    graph = training_graph(model.graph, model.spec.ops, model._credit_rules(), merge=False)
    other.__dict__["_training_graph"] = graph
    other._step = 0
    return other


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("credit", RULES)
def test_merged_visits_are_the_definition(credit, shape):
    model = SHAPES[shape].model(credit)
    other, batch = definition_of(model), batch_of(model)
    wanted = {name: g for name, g in gradients(other, batch).items() if g is not None}
    assert_same(gradients(model, batch), wanted, 1e-10)
