"""What rounds of growth do besides adding and pruning: merges, splits, compensation, frozen ops, and when they settle."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.growth import Every, Growing
from r2d2c.mutate import mutate
from r2d2c.mutations import Add, Freeze, Merge, MutationError, Split, from_json, to_json
from r2d2c.opgraph import Topology, depths
from r2d2c.train import growth_rows
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.growth import Growth
from r2d2c.train.growth_choice import choose, is_copy, shallow
from r2d2c.train.growth_scores import Seen, Watch, scores
from r2d2c.train.growth_surgeon import Surgeon
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.replay import replay
from tests.unit.mutation_oracle import make, outputs, some_x, weights
from tests.unit.runs import StopAt, assert_same_run
from tests.unit.test_growth import GROW, SPEC, Keep, _NoOptimizer, batch, folder, log_of, trained

__all__ = ["folder"]  # a fixture
pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHT, BIAS = "classify.logits.linear.weight", "classify.logits.linear.bias"
# Twins, a multiple, a sum with a number, and ops that read them.
RELATED = """\
r2d2c: 1
inputs: {x: "f32[B, 3]"}
targets: {y: "f32[B, 2]"}
op_graphs:
  layer:
    ops: [add, mul, sin]
    capacity: 16
    nodes:
      twin: x[1] * x[0]
      product: x[0] * x[1]
      reads: sin(twin)
      same: sin(product)
      double: product * p(2.0)
      lower: p(-3.0) - product
      other: x[2] * x[2]
    normalise: NORMALISE
    grow: {every: epochs(1), merge: 8}
tasks:
  fit:
    behavior: |
      columns = layer(x)
      out = linear(columns, 2BIAS)
    distance: mse(out, y)
outputs: {out: fit.out}
"""


class Made:
    """A model with an op graph, its growth, and some data; f64."""

    def __init__(self, spec: str, tmp_path: Path, **data: torch.Tensor) -> None:
        self.model = r2d2c.Model(r2d2c.loads(spec)).double()
        drawn = torch.Generator().manual_seed(5)
        for name, tensor in self.model.named_parameters():
            if "linear" in name:
                with torch.no_grad():
                    tensor.copy_(torch.randn(tensor.shape, generator=drawn, dtype=torch.float64))
        run: Any = type("Run", (), {"path": tmp_path})()
        optimizer: Any = _NoOptimizer()
        self.growth = Growth(self.model, optimizer, run)
        self.growth.open_log("test")
        self.data = data

    def out(self) -> torch.Tensor:
        (found,) = self.model(x=self.data["x"]).values()
        return found.detach()

    def seen(self) -> Seen:
        graph = self.growth.graphs["layer"]
        return Watch(self.model, graph).look([self.data], slopes=False)

    def round(self, **more: Any) -> Any:
        return self.growth.round("layer", [self.data], epoch=1, step=1, **more)


def related(tmp_path: Path, normalise: str = "none", bias: str = "") -> Made:
    made = torch.Generator().manual_seed(1)
    x = torch.rand(200, 3, generator=made, dtype=torch.float64) * 4 - 2
    y = torch.randn(200, 2, generator=made, dtype=torch.float64)
    return Made(RELATED.replace("NORMALISE", normalise).replace("BIAS", bias), tmp_path, x=x, y=y)


# -- what the others do not explain


def columns(count: int = 7, samples: int = 300, seed: int = 0, scales: float = 3) -> np.ndarray[Any, Any]:
    """Correlated columns of many means and scales, up to so many powers of ten."""
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(samples, count)) @ draw.normal(size=(count, count))
    return mixed * 10.0 ** draw.uniform(-scales, scales, count) + draw.normal(size=count) * 5  # type: ignore[no-any-return]


def residual(
    values: np.ndarray[Any, Any], column: int, others: list[int], constant: bool = True
) -> np.ndarray[Any, Any]:
    """What numpy's own least squares leaves of a column."""
    parts = values[:, others]
    if constant:
        parts = np.hstack([parts, np.ones((len(values), 1))])
    scale = np.linalg.norm(parts, axis=0)
    found = np.linalg.lstsq(parts / scale, values[:, column], rcond=None)[0]
    left: np.ndarray[Any, Any] = values[:, column] - (parts / scale) @ found
    return left


def test_what_is_unexplained_is_what_a_regression_leaves() -> None:
    values = columns()
    found = Surgeon(values, np.ones(7, bool)).unexplained()
    for column in range(7):
        left = residual(values, column, [k for k in range(7) if k != column])
        assert found[column] == pytest.approx(left.std(), rel=1e-5)


def test_columns_that_others_explain_are_worth_nothing() -> None:
    values = columns(9, scales=0.3)
    values[:, 3] = 2 * values[:, 0] - 7
    values[:, 5] = values[:, 1] / 3 + values[:, 2]
    values[:, 6] = 4.25
    values[4, 7] = np.inf
    # As the ops compute them, with the rounding of f32.
    with np.errstate(all="raise"):
        found = Surgeon(values.astype(np.float32).astype(np.float64), np.ones(9, bool)).unexplained()
    assert (found[[0, 3, 1, 2, 5, 6]] == 0).all()
    assert np.isnan(found[7])
    assert found[4] > 0 and found[8] > 0
    alone = Surgeon(values, np.array([False] * 8 + [True])).unexplained()
    assert alone[8] == pytest.approx(values[:, 8].std(), rel=1e-6)


@pytest.mark.parametrize("constant", [True, False])
def test_those_that_stay_make_up_in_least_squares(constant: bool) -> None:
    """One after the other is the same as all together."""
    values = columns()
    surgeon = Surgeon(values, np.ones(7, bool))
    weight = np.random.default_rng(1).normal(size=7)
    wanted, level = values @ weight, 0.0
    for gone in (2, 5, 0):
        surgeon.drop(gone)
        parts, more = surgeon.explain(gone, constant=constant)
        weight, level = weight + weight[gone] * parts, level + weight[gone] * more
        weight[gone] = 0
    kept = [1, 3, 4, 6]
    best = residual(np.column_stack([values, wanted]), 7, kept, constant)
    left = wanted - values @ weight - level
    assert np.abs(left - best).max() < 1e-4 * np.abs(best).max()
    assert (level != 0) == constant


def test_saliency_is_the_least_that_the_outputs_can_change(tmp_path: Path) -> None:
    made = related(tmp_path)
    topology, seen = made.growth.topology("layer"), made.seen()
    readouts = made.growth.readouts(made.growth.graphs["layer"])
    found = scores(topology, seen, readouts, 3)
    assert set(found) == {"effect", "magnitude", "saliency", "depth", "age"}
    rows = topology.rows
    for name, row in rows.items():
        column = topology.inputs + row
        others = [k for k in range(topology.columns) if k != column and seen.varies[k]]
        left = residual(seen.columns, column, others)
        norm = np.linalg.norm(readouts[0][:, column])
        wanted = 0 if left.std() < 1e-6 else left.std() * norm
        assert found["saliency"][row] == pytest.approx(wanted, rel=1e-5), name
    assert [found["depth"][rows[name]] for name in ("product", "same", "double", "other")] == [1, 2, 2, 1]


# -- compensation

SHRINKING = SPEC.replace("add: 3\n      prune: 2", "prune: 3\n      compensate: true")


def shrinking(tmp_path: Path, bias: str = "", **more: str) -> Made:
    spec = SHRINKING.replace("linear(columns, C)", f"linear(columns, C{bias})")
    for key, value in more.items():
        spec = spec.replace("prune: 3", f"prune: 3\n      {key}: {value}")
    given = batch()
    return Made(spec, tmp_path, x=given["x"].double(), y=given["y"])


@pytest.mark.parametrize(
    ("bias", "more"),
    [("", {}), (", bias=false", {}), ("", {"by": "saliency"}), ("", {"whole": "true"})],
)
def test_readouts_make_up_for_pruned_ops(tmp_path: Path, bias: str, more: dict[str, str]) -> None:
    made = shrinking(tmp_path, bias, **more)
    before, seen = made.out().numpy(), made.seen().columns
    assert made.growth.graphs["layer"].readers[0].bias == (None if bias else BIAS)
    done = made.round()
    assert done.topology.count == 5
    after = made.out().numpy()
    kept = [k for k in range(seen.shape[1]) if k < 4 or done.topology.live[k - 4]]
    for output in range(3):
        table = np.column_stack([seen, before[:, output]])
        best = residual(table, seen.shape[1], kept, constant=not bias)
        left = before[:, output] - after[:, output]
        assert np.abs(left - best).max() < 1e-5 * np.abs(before).max()
    # Without, it is further away.
    plain = Made(SHRINKING.replace("compensate: true", "epochs: 3"), tmp_path, **made.data)
    old = plain.out().numpy()
    plain.round()
    assert np.square(plain.out().numpy() - old).sum() > np.square(after - before).sum()


def test_compensation_leaves_the_optimizers_state_of_what_stays(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    trained(folder, tmp_path / "run", f"{GROW}.compensate=true", epochs=1, callbacks=[keep])
    growth, trainer = keep.trainer.growth, keep.trainer
    old, _ = trainer.stepper.state_of(WEIGHT)
    old = {key: value.clone() for key, value in old.items()}
    weight = trainer.model.get_parameter(WEIGHT).detach().clone()
    done = growth.round("layer", trainer.sample(), epoch=1, step=4)
    new, _ = trainer.stepper.state_of(WEIGHT)
    touched = 4 + done.change.touched
    kept = [k for k in range(weight.shape[1]) if k not in touched and (k < 4 or done.topology.live[k - 4])]
    assert torch.equal(new["exp_avg"][:, kept], old["exp_avg"][:, kept])
    assert torch.equal(new["exp_avg_sq"][:, kept], old["exp_avg_sq"][:, kept])
    moved = trainer.model.get_parameter(WEIGHT).detach()
    assert not torch.equal(moved[:, kept], weight[:, kept])


def test_a_bias_of_several_linears_is_left_alone() -> None:
    shared = SPEC.replace(
        "logits = linear(columns, C)", "w = linear(columns, C)\n      logits = linear(x, C) + w"
    )
    found = Growth(r2d2c.Model(r2d2c.loads(shared)), _NoOptimizer(), _NoRun()).graphs["layer"].readers  # type: ignore[arg-type]
    assert [reader.bias for reader in found] == ["classify.w.linear.bias"]


class _NoRun:
    path = Path()


# -- refitting


def fitted(tmp_path: Path, distance: str, bias: str = "") -> Made:
    spec = (
        RELATED.replace("NORMALISE", "none").replace("merge: 8", "add: 2, refit: true").replace("BIAS", bias)
    )
    made = torch.Generator().manual_seed(1)
    x = torch.rand(300, 3, generator=made, dtype=torch.float64) * 4 - 2
    y = torch.stack([x[:, 0] * x[:, 1], torch.sin(x[:, 2])], 1) + 0.1 * torch.randn(
        300, 2, generator=made, dtype=torch.float64
    )
    return Made(spec.replace("mse(out, y)", distance), tmp_path, x=x, y=y)


@pytest.mark.parametrize("bias", ["", ", bias=false"])
def test_a_refit_is_the_least_squares_of_what_is_wanted(tmp_path: Path, bias: str) -> None:
    made = fitted(tmp_path, "mse(out, y)", bias)
    seen, target = made.seen().columns, made.data["y"].numpy()
    made.growth.round("layer", [made.data], epoch=1, step=1)
    left = target - made.out().numpy()
    kept = [k for k in range(seen.shape[1]) if k < 3 + 7]
    for output in range(2):
        table = np.column_stack([seen, target[:, output]])
        best = residual(table, seen.shape[1], kept, constant=not bias)
        # The columns are collinear, so a firm fit is a little off.
        assert np.square(left[:, output]).sum() <= np.square(best).sum() * (1 + 1e-4)


def test_a_refit_takes_any_loss_and_never_makes_it_worse(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    trained(folder, tmp_path / "run", f"{GROW}.refit=true", f"{GROW}.prune=0", epochs=1, callbacks=[keep])
    trainer, growth = keep.trainer, keep.trainer.growth
    sample = trainer.sample()

    def loss() -> float:
        return sum(float(trainer.model.losses(**one)["classify"]) for one in sample) / len(sample)

    losses = [loss()]
    for at in range(4):
        growth.round("layer", sample, epoch=at + 1, step=at)
        losses.append(loss())
    assert losses[1] < 0.9 * losses[0]  # cross entropy: no least squares, and one step helps
    assert all(late <= early for early, late in pairwise(losses))


def test_a_few_samples_are_not_learned_by_heart(tmp_path: Path) -> None:
    made = fitted(tmp_path, "mse(out, y)")
    few = {name: tensor[:19] for name, tensor in made.data.items()}  # of 10 columns
    before = made.out()
    made.growth.round("layer", [few], epoch=1, step=1)
    assert torch.equal(made.out(), before)


def test_a_round_that_cannot_be_undoes_its_refit(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    more = (f"{GROW}.refit=true", f"{GROW}.by=log(0 - effect - 1)")
    trained(folder, tmp_path / "run", *more, epochs=1, callbacks=[keep])
    before = {name: tensor.clone() for name, tensor in keep.trainer.model.state_dict().items()}
    with pytest.raises(CompileError):
        keep.trainer.growth.round("layer", keep.trainer.sample(), epoch=1, step=4)
    after = keep.trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_with_refits_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    more = (
        f"{GROW}.refit=true",
        f"{GROW}.compensate=true",
        f"{GROW}.by=saliency",
        f"{GROW}.prefer=shallow",
        f"{GROW}.merge=1",
    )
    trained(folder, tmp_path / "whole", *more)
    with pytest.raises(Interrupted):
        trained(folder, tmp_path / "run", *more, callbacks=[StopAt(2, 2)])
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert replay(tmp_path / "run")["layer"].differences == ()


def test_an_op_that_only_gives_what_it_reads_is_no_new_one(tmp_path: Path) -> None:
    assert is_copy(Add("n1", "max", ("x0", "x0"))) and is_copy(Add("n1", "min", ("n0", "n0")))
    assert not is_copy(Add("n1", "max", ("x0", "x1"))) and not is_copy(Add("n1", "mul", ("x0", "x0")))
    assert not is_copy(Add("n1", "max", ("x0", 0.5))) and not is_copy(Add("n1", "abs", ("x0",)))
    made = related(tmp_path)
    graph = replace(made.growth.graphs["layer"], kinds=("max", "min"))
    growing = Growing(Every("epochs", 1), add=9)
    before, seen = made.growth.topology("layer"), made.seen()
    for seed in range(10):
        random = np.random.default_rng(seed)
        chosen = choose(graph, growing, before, seen, made.growth.readouts(graph), random, at=1)
        assert not any(isinstance(m, Add) and len(set(m.args)) == 1 for m in chosen.mutations)
        mutate(before, chosen.mutations, at=1)


def test_shallow_growth_reads_inputs_as_often_as_ops(tmp_path: Path) -> None:
    """By hand: with two depths, half of the arguments are inputs, though there are five times as many ops."""
    made = related(tmp_path)
    graph, before, seen = made.growth.graphs["layer"], made.growth.topology("layer"), made.seen()
    probable = shallow(before, seen.varies)
    by_depth = [probable[:3].sum()]
    depth = depths(before)
    by_depth += [probable[3:][depth == d].sum() for d in (1, 2)]
    assert by_depth == pytest.approx([1, 1, 1])
    assert graph.growing is not None
    growing = replace(graph.growing, merge=0, add=8, prefer="shallow")
    new = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        chosen = choose(graph, growing, before, seen, made.growth.readouts(graph), random, at=1)
        names = {m.name for m in chosen.mutations if isinstance(m, Add)}
        new += sum(arg in names for m in chosen.mutations if isinstance(m, Add) for arg in m.args)
    assert new > 10  # of one round, the second half reads the first


# -- below, and settling


def test_only_what_is_worth_less_goes(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    trained(folder, tmp_path / "all", epochs=1, callbacks=[keep])
    growth = keep.trainer.growth
    graph = growth.graphs["layer"]
    seen = Watch(keep.trainer.model, graph).look(keep.trainer.sample(), slopes=False)
    topology = growth.topology("layer")
    effects = scores(topology, seen, growth.readouts(graph), 1)["effect"]
    leaves = [r for r in topology.rows.values() if not (topology.args == 4 + r).any()]
    least, bound = (float(effect) for effect in np.sort(effects[leaves])[:2])
    for below, gone in ((bound * 1.0001, 2), (bound, 1), (least / 2, 0)):
        out = tmp_path / f"below{gone}"
        run = trained(folder, out, f"{GROW}.below={below!r}", f"{GROW}.add=0", f"{GROW}.prune=2", epochs=2)
        lines = log_of(out)[1:]
        assert len(lines) == (gone > 0)
        assert sum(len(line["do"]) for line in lines) >= gone
        assert all(worth < below for line in lines for worth in line["worth"].values())
        assert replay(run)["layer"].differences == ()


def test_below_prunes_never_the_last_op(folder: Path, tmp_path: Path) -> None:
    more = (f"{GROW}.below=1e9", f"{GROW}.add=0", f"{GROW}.prune=50", f"{GROW}.compensate=true")
    run = trained(folder, tmp_path / "run", *more)
    assert [r["ops"]["layer"] for r in run.metrics if "ops" in r] == [8, 1, 1, 1, 1]


@pytest.mark.parametrize(("every", "last"), [("epochs(1)", 8), ("steps(3)", 9)])
def test_at_last_nothing_is_added(folder: Path, tmp_path: Path, every: str, last: int) -> None:
    settings = [f"{GROW}.every={every}", f"{GROW}.epochs=4", f"{GROW}.settle=2", f"{GROW}.split=1"]
    run = trained(folder, tmp_path / "run", *settings, f"{GROW}.prune=1", epochs=6)
    done = {line["step"]: {step["do"] for step in line["do"]} for line in log_of(tmp_path / "run")[1:]}
    early = {step for step in done if step <= 8}
    assert all("add" in done[step] for step in early)
    assert done.keys() - early and all(done[step] == {"prune"} for step in done.keys() - early)
    assert max(done) in (15, 16)
    assert "split" in run.files.path.joinpath("summary.txt").read_text()


def test_a_schedule_that_settles_to_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    settle = [f"{GROW}.prune=3", f"{GROW}.epochs=6", f"{GROW}.settle=4"]
    with pytest.raises(CompileError) as caught:
        trained(folder, tmp_path / "run", *settle, epochs=9)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (
        "E352",
        "round 5 of the growth of `layer` would leave no op: 3 of 2 go",
    )


# -- merging


@pytest.mark.parametrize(("normalise", "bias"), [("none", ""), ("none", ", bias=false"), ("batch", "")])
def test_ops_that_compute_the_same_become_one(tmp_path: Path, normalise: str, bias: str) -> None:
    made = related(tmp_path, normalise, bias)
    if normalise == "batch":
        for _ in range(200):  # the running statistics become those of the data
            made.model.learn(**made.data)
    before = made.out()
    done = made.round()
    merged = {step["gone"]: (step["name"], step.get("scale", 1.0)) for step in log_of(tmp_path)[-1]["do"]}
    wanted = {"product": ("twin", 1.0), "same": ("reads", 1.0), "double": ("twin", 2.0)}
    if normalise == "batch":
        # Up to what running variances, which are unbiased, make of 200 samples.
        wanted["double"] = ("twin", pytest.approx(1.0, abs=0.01))
        wanted["lower"] = ("twin", pytest.approx(-1.0, abs=0.01))
    elif not bias:
        wanted["lower"] = ("twin", -1.0)
    assert merged.keys() == wanted.keys()
    assert all(merged[gone][0] == name and merged[gone][1] == scale for gone, (name, scale) in wanted.items())
    assert (made.out() - before).abs().max() < 1e-5 * before.abs().max()
    assert not torch.equal(made.out(), torch.zeros_like(before))
    assert {"twin", "reads", "other"} <= done.topology.rows.keys()
    assert made.growth.counts["layer"].merged == len(wanted)


def test_a_merge_keeps_to_its_number_and_the_log_replays(folder: Path, tmp_path: Path) -> None:
    nodes = "o1: o0 + p\n      o2: x[1] * x[0]\n      o3: sin(o2)\n      o4: sin(o0)"
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("o1: o0 + p", nodes))
    data = f"csv:{folder / 'data.csv'}?target=y"
    run = r2d2c.train(path, out=tmp_path / "run", data=data, settings=[f"{GROW}.merge=1", f"{GROW}.prune=0"])
    steps = [[step for step in line["do"] if step["do"] == "merge"] for line in log_of(tmp_path / "run")[1:]]
    gone = [step["gone"] for line in steps for step in line]
    assert gone[0] == "o2" and {"o3", "o4"} & set(gone)
    assert all(len(line) <= 1 for line in steps)
    assert replay(run)["layer"].differences == ()


def test_merging_by_a_factor_is_for_leaves() -> None:
    """Against the op graph evaluated a node at a time: n2 is 4 times n0, whose number is 0.5."""
    start, numbers = make()
    grown = mutate(start, [Add("n2", "mul", ("total", 2.0))])
    growth_rows.numbers(numbers, grown.change)
    readout = weights(grown.topology)
    expected = outputs(grown.topology, numbers, readout, some_x())
    merged = mutate(grown.topology, [Merge("n0", "n2", 4.0)])
    growth_rows.numbers(numbers, merged.change)
    growth_rows.mix(readout, merged.change)
    found = outputs(merged.topology, numbers, readout, some_x())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert from_json(to_json(Merge("n0", "n2", 4.0))) == Merge("n0", "n2", 4.0)
    for pair, words in (
        (Merge("n2", "n0", 0.25), "reads it"),
        (Merge("n0", "n2", float("inf")), "inf times"),
    ):
        with pytest.raises(MutationError, match=words):
            mutate(grown.topology, [pair])


# -- splitting


def test_splits_keep_the_function_and_take_the_best(tmp_path: Path) -> None:
    spec = SPEC.replace("add: 3\n      prune: 2", "split: 2\n      by: effect").replace(
        "o1: o0 + p", "o1: o0 + p\n      o2: o1 * o0\n      o3: sin(o1)\n      o4: gauss(p, x[1])"
    )
    given = batch()
    made = Made(spec.replace("start: 6", "start: 0"), tmp_path, x=given["x"].double(), y=given["y"])
    before, topology, seen = made.out(), made.growth.topology("layer"), made.seen()
    weight = made.model.get_parameter(WEIGHT).detach().clone()
    done = made.round()
    splits = [Split(s["name"], s["into"], tuple(s.get("readers", ()))) for s in log_of(tmp_path)[-1]["do"]]
    assert {split.name for split in splits} == {"o1", "o4"}  # the others have no number of their own
    assert [split.into for split in splits] == ["n5", "n6"]
    torch.testing.assert_close(made.out(), before, rtol=1e-12, atol=1e-12)
    after = made.model.get_parameter(WEIGHT).detach()
    for split in splits:
        old, new = (4 + done.topology.rows[name] for name in (split.name, split.into))
        torch.testing.assert_close(after[:, new], 0.25 * weight[:, old])
        torch.testing.assert_close(after[:, old], 0.75 * weight[:, old])
    assert made.growth.counts["layer"].split == 2
    assert seen.columns.shape[1] == topology.columns


def test_the_readers_of_split_ops_are_shared_out_by_the_seed(folder: Path, tmp_path: Path) -> None:
    def readers(name: str, seed: int) -> list[Any]:
        trained(folder, tmp_path / name, f"{GROW}.split=2", f"{GROW}.prune=1", f"{GROW}.add=2", seed=seed)
        return [line["do"] for line in log_of(tmp_path / name)[1:]]

    one = readers("one", 0)
    assert one == readers("two", 0)
    assert any(step["do"] == "split" for line in one for step in line)
    assert replay(tmp_path / "one")["layer"].differences == ()


# -- frozen ops

HELD = (
    f"{GROW}.frozen=[o1, n3]",
    "op_graphs.layer.normalise=batch",
    "train.optimizer=adamw(lr=0.05, weight_decay=0.5)",
    f"{GROW}.merge=2",
    f"{GROW}.prune=6",
    f"{GROW}.add=6",
    f"{GROW}.whole=true",
)


def test_frozen_ops_stay_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "run", *HELD)
    first = r2d2c.Model(run.spec).state_dict()
    last = run.load("last").state_dict()
    _, freezes, *rounds = log_of(tmp_path / "run")
    assert (freezes["at"], freezes["epoch"]) == (0, 0)
    names = [step["name"] for step in freezes["do"] if step["do"] == "freeze"]
    assert {"o0", "o1", "n3"} <= set(names)  # o1 computes from o0
    rows = replay(run)["layer"].topology.rows
    held, loose = [rows[name] for name in names], [row for name, row in rows.items() if name not in names]
    for part in ("numbers", "mean", "variance", "kind", "args"):
        assert torch.equal(first[f"layer.{part}"][held], last[f"layer.{part}"][held]), part
    assert (last["layer.mean"][loose] != 0).all()
    # Their weights in the read-out are trained.
    weight = WEIGHT
    assert (first[weight][:, [4 + row for row in held]] != last[weight][:, [4 + row for row in held]]).all()
    assert len(rounds) == 4
    found = replay(run)["layer"]
    assert (found.rounds, found.differences) == (4, ())
    assert load_checkpoint(tmp_path / "run/checkpoints/last.safetensors").state["growth"]["frozen"] == {
        "layer": sorted(names)
    }


@pytest.mark.parametrize(("epoch", "number"), [(1, 2), (2, 4)])
def test_a_run_with_frozen_ops_goes_on_exactly(folder: Path, tmp_path: Path, epoch: int, number: int) -> None:
    more = (*HELD, f"{GROW}.compensate=true", f"{GROW}.by=saliency", f"{GROW}.split=1")
    trained(folder, tmp_path / "whole", *more)
    with pytest.raises(Interrupted):
        trained(folder, tmp_path / "run", *more, callbacks=[StopAt(epoch, number)])
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_all_that_there_are_at_first_can_be_frozen(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "run", f"{GROW}.frozen=[all]", f"{GROW}.split=3")
    first, last = r2d2c.Model(run.spec).state_dict(), run.load("last").state_dict()
    freezes, *rounds = log_of(tmp_path / "run")[1:]
    assert len(freezes["do"]) == 8
    rows = list(range(8))
    assert torch.equal(first["layer.numbers"][rows], last["layer.numbers"][rows])
    assert {step["do"] for line in rounds for step in line["do"]} <= {"add", "prune", "split"}
    gone = {step["name"] for line in rounds for step in line["do"] if step["do"] in ("prune", "split")}
    assert gone and not gone & {step["name"] for step in freezes["do"]}


def test_frozen_ops_have_to_be_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        trained(folder, tmp_path / "run", f"{GROW}.frozen=[o1, n33]")
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("E578", "`layer` freezes its op `n33`, and has none of this name")
    assert found.span is not None


def test_frozen_ops_are_neither_merged_away_nor_split(tmp_path: Path) -> None:
    """The deeper and the younger of two go, unless these are frozen."""
    made = related(tmp_path)
    graph, before, seen = made.growth.graphs["layer"], made.growth.topology("layer"), made.seen()
    assert graph.growing is not None
    readouts = made.growth.readouts(graph)
    held = frozenset({"product", "same", "double"})
    for growing in (graph.growing, replace(graph.growing, split=9)):
        chosen = choose(graph, growing, before, seen, readouts, np.random.default_rng(0), at=1, frozen=held)
        merges = [m for m in chosen.mutations if isinstance(m, Merge)]
        assert {(m.name, m.gone) for m in merges} == {
            ("product", "twin"),
            ("same", "reads"),
            ("product", "lower"),
        }
        assert not any(isinstance(m, Split) and m.name in held for m in chosen.mutations)
    mutate(before, [Freeze("twin"), *chosen.mutations[1:2]])


def test_a_training_step_without_frozen_ops_has_nothing_to_put_back(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    trained(folder, tmp_path / "run", callbacks=[keep], epochs=1)
    assert keep.trainer.stepper.pinned == []
    head = json.loads((tmp_path / "run" / "mutations.jsonl").read_text().splitlines()[0])
    assert isinstance(head["began"]["nodes"], list)
    assert isinstance(keep.trainer.growth.topology("layer"), Topology)
