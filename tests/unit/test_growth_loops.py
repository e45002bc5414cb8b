"""Op graphs that grow in the body of a loop: what is looked at, who reads, and trainings that go on exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.mutate import Add, Mutated, Prune, mutate
from r2d2c.passes.inline import flatten
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.growth import Growth, op_graphs
from r2d2c.train.growth_scores import Watch, scores
from r2d2c.train.replay import replay
from r2d2c.verify.op_graphs import find_readers
from tests.unit.op_graph_oracle import by_hand
from tests.unit.runs import three_classes, write_table

HEAD = """\
r2d2c: 1
model: thinking
dims: {D: 4, C: 3}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss, sin, gated]
    capacity: 14
    start: 6
    nodes: {o0: "x[0] * x[1]", o1: o0 + p}
    grow: {every: epochs(1), add: 3, prune: 2}
"""
BODY = """\
    carry:
      z: f32[B, D] = zeros
    body: |
      columns = layer(z + data)
      z = tanh(linear(concat(z, columns), D))
"""
REPEAT = "loops:\n  think(data):\n    repeat: 3\n" + BODY
TASK = """\
tasks:
  classify:
    behavior: |
      h = think(x)
      logits = linear(h, C)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
"""
TRAIN = """\
train:
  data: csv:data.csv?target=y
  epochs: 4
  batch_size: 16
  optimizer: adam(lr=0.01)
"""
SPEC = HEAD + REPEAT + TASK + TRAIN
WEIGHT, NUMBERS = "think.z.linear.weight", "layer.numbers"


def model_of(text: str = SPEC, **options: Any) -> Model:
    return r2d2c.compile(r2d2c.loads(text, **options))


def batch(size: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(size, 4, generator=generator),
        "y": torch.randint(0, 3, (size,), generator=generator),
    }


def unrolled(model: Model, x: torch.Tensor, steps: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and the columns of every step, in hand-written PyTorch."""
    parameters = dict(model.named_parameters())
    z, every = torch.zeros_like(x), []
    for _ in range(steps):
        every.append(by_hand(model, "layer", z + x))
        z = torch.tanh(
            F.linear(torch.cat([z, every[-1]], 1), parameters[WEIGHT], parameters["think.z.linear.bias"])
        )
    last = model.classify.logits.linear
    return F.linear(z, last.weight, last.bias), every


def grower(model: Model, tmp_path: Path) -> Any:
    class Stepper:
        def state_of(self, name: str) -> None:
            return None

    class Run:
        path = tmp_path

    return Growth(model, Stepper(), Run())  # type: ignore[arg-type]


def test_the_readers_in_a_loop_are_found() -> None:
    model = model_of()
    (reader,) = find_readers(flatten(model.graph))["layer"].readers
    assert (reader.weight, reader.offset, reader.bias) == (WEIGHT, 4, "think.z.linear.bias")
    graph = op_graphs(model)["layer"]
    assert (graph.inputs, graph.capacity, graph.node) == (4, 14, "layer") and graph.readers == (reader,)


def test_what_is_looked_at_are_the_columns_of_all_steps() -> None:
    model = model_of().double()
    given = {name: value.double() if value.is_floating_point() else value for name, value in batch().items()}
    watch = Watch(model, op_graphs(model)["layer"])
    copied = copy.deepcopy(model)
    logits, every = unrolled(copied, given["x"])
    for columns in every:
        columns.retain_grad()
    F.cross_entropy(logits, given["y"]).backward()
    for _ in range(2):  # it is run anew each time
        seen = watch.look([given], slopes=False)
        np.testing.assert_allclose(seen.columns, torch.cat(every).detach(), atol=1e-12)
    halves = [{name: value[rows] for name, value in given.items()} for rows in (slice(0, 3), slice(3, 9))]
    rows = np.concatenate(
        [[step * 9 + row for step in range(3) for row in range(*part)] for part in ((0, 3), (3, 9))]
    )
    np.testing.assert_allclose(
        watch.look(halves, slopes=False).columns, torch.cat(every).detach()[rows], atol=1e-12
    )
    seen = watch.look([given], slopes=True)
    slopes = torch.cat([columns.grad for columns in every if columns.grad is not None])
    np.testing.assert_allclose(seen.columns, torch.cat(every).detach(), atol=1e-12)
    np.testing.assert_allclose(seen.gradients, slopes, atol=1e-12)
    # To first order the loss changes by the sum over samples and steps.
    graph = op_graphs(model)["layer"]
    topology = grower(model, Path()).topology("layer")
    found = scores(topology, seen, [np.ones((1, 18))], 1, wanted=("effect", "taylor"))
    row = 3
    alone = torch.cat(every).detach().numpy()[:, graph.inputs + row]
    np.testing.assert_allclose(found["effect"][row], alone.std(), atol=1e-12)
    np.testing.assert_allclose(
        found["taylor"][row], abs((alone * slopes.numpy()[:, graph.inputs + row]).sum()), atol=1e-12
    )
    assert all(p.grad is None for p in model.parameters())


def test_a_new_op_changes_no_output_and_has_a_gradient_from_the_next_step_on(tmp_path: Path) -> None:
    model = model_of()
    given = batch()
    before = model(x=given["x"])["logits"]
    growth = grower(model, tmp_path)
    topology = growth.topology("layer")
    done: Mutated = mutate(topology, [Add(f"n{topology.next}", "mul", ("o1", 1.5))])
    growth.apply("layer", done)
    assert torch.equal(model(x=given["x"])["logits"], before)
    row = done.topology.rows[f"n{topology.next}"]
    logits, _ = unrolled(model, given["x"])
    torch.testing.assert_close(model(x=given["x"])["logits"], logits)
    model.learn(**given)
    weight = model.get_parameter(WEIGHT)
    assert (weight[:, 4 + 4 + row] == 0).all() and weight.grad is not None
    assert weight.grad[:, 4 + 4 + row].abs().sum() > 0
    # Pruning a leaf is zeroing its column in the read-out, at every step.
    leaf = next(name for name, at in topology.rows.items() if not (done.topology.args == 4 + at).any())
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        zeroed.get_parameter(WEIGHT)[:, 4 + 4 + topology.rows[leaf]] = 0
    growth.apply("layer", mutate(done.topology, [Prune(leaf)]))
    assert torch.equal(model(x=given["x"])["logits"], zeroed(x=given["x"])["logits"])


@pytest.mark.parametrize("credit", ["truncate(2)", "local"])
def test_steps_that_send_nothing_back_are_looked_at_too(credit: str) -> None:
    carry = f"      z: {{value: 'f32[B, D] = zeros', credit: {credit}}}"
    model = model_of(SPEC.replace("      z: f32[B, D] = zeros", carry))
    seen = Watch(model, op_graphs(model)["layer"]).look([batch()], slopes=True)
    assert seen.columns.shape == (27, 18) and seen.gradients is not None
    learns = [np.abs(seen.gradients[9 * step : 9 * step + 9]).sum() > 0 for step in range(3)]
    assert learns == [False, credit != "local", True]


def test_a_loop_where_samples_halt(tmp_path: Path) -> None:
    text = SPEC.replace("repeat: 3", "until: done\n    max: 5").replace(
        "linear(concat(z, columns), D))\n", "linear(concat(z, columns), D))\n      done = mean(z, -1) > 0.1\n"
    )
    model = model_of(text)
    watch = Watch(model, op_graphs(model)["layer"])
    seen = [watch.look([batch()], slopes=slopes) for slopes in (False, True)]
    assert 9 < len(seen[0].columns) < 45 and np.array_equal(seen[0].columns, seen[1].columns)
    growth = grower(model, tmp_path)
    before, outputs = growth.topology("layer"), model(x=batch()["x"])["logits"]
    growth.apply("layer", mutate(before, [Add(f"n{before.next}", "mul", ("o1", 1.5))]))
    assert torch.equal(model(x=batch()["x"])["logits"], outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("loops")
    write_table(made / "data.csv", "abcd", 70, three_classes)
    (made / "spec.yaml").write_text(SPEC)
    return made


@pytest.mark.parametrize("by", ["effect", "taylor", "effect + age"])
def test_a_training_grows_and_goes_on_exactly(folder: Path, tmp_path: Path, by: str) -> None:
    more = [f"op_graphs.layer.grow.by='{by}'", "op_graphs.layer.grow.prefer=gradient"]
    runs = [tmp_path / "whole", tmp_path / "parts"]
    r2d2c.train(folder / "spec.yaml", out=runs[0], settings=more)
    r2d2c.train(folder / "spec.yaml", out=runs[1], settings=more, epochs=2)
    r2d2c.train(resume=runs[1], epochs=4)
    one, other = (load_checkpoint(run / "checkpoints" / "last.safetensors") for run in runs)
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    logs = [(run / "mutations.jsonl").read_text().splitlines() for run in runs]
    assert logs[0][1:] == logs[1][1:] and len(logs[0]) == 4  # the first line has the fingerprint of a spec
    assert not replay(runs[0])["layer"].differences


def test_columns_that_leave_the_loop_are_refused() -> None:
    shown = SPEC.replace(
        "z = tanh(linear(concat(z, columns), D))", "z = tanh(linear(columns, D)) + columns[:, :4]"
    )
    with pytest.raises(CompileError) as caught:
        model_of(shown)
    assert [d.code for d in caught.value.diagnostics] == ["E348"]
