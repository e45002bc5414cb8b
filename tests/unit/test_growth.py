"""Op graphs that grow in a training: rounds, rows of the optimizer, the log, and runs that go on exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.formulas import evaluate
from r2d2c.growth import Every, Growing
from r2d2c.model import Model
from r2d2c.mutate import Add, Mutated, Prune, mutate
from r2d2c.mutations import MutationError
from r2d2c.opgraph import Topology
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.growth import Growth
from r2d2c.train.growth_log import GrowthLog, differences, of_data, rebuild, to_data
from r2d2c.train.growth_scores import Watch, scores
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.replay import replay
from tests.unit.runs import StopAt, assert_same_run, three_classes, write_table

SPEC = """\
r2d2c: 1
model: growing
dims: {D: 4, C: 3}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss, sin, gated]
    capacity: 14
    start: 6
    nodes:
      o0: x[0] * x[1]
      o1: o0 + p
    grow:
      every: epochs(1)
      add: 3
      prune: 2
tasks:
  classify:
    behavior: |
      columns = layer(x)
      logits = linear(columns, C)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  epochs: 5
  batch_size: 16
  optimizer: adam(lr=0.01)
"""
WEIGHT, NUMBERS = "classify.logits.linear.weight", "layer.numbers"
GROW = "op_graphs.layer.grow"
# No progress after the first epoch, to the last bit: three steps an epoch, and a validation split.
STILL = (
    "train.optimizer=sgd(lr=0.0)",
    "train.metrics=['accuracy(logits, y)']",
    "train.split=0.2",
    f"{GROW}.prune=0",
    f"{GROW}.add=1",
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("growth")
    write_table(made / "data.csv", "abcd", 70, three_classes)
    (made / "spec.yaml").write_text(SPEC)
    return made


def trained(folder: Path, out: Path, *settings: str, **more: Any) -> Any:
    return r2d2c.train(folder / "spec.yaml", out=out, settings=list(settings), **more)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that nothing interrupted."""
    out = folder / "whole"
    trained(folder, out)
    return out


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "mutations.jsonl").read_text().splitlines()]


class Keep:
    """Keeps the trainer."""

    trainer: Any

    def on_ready(self, trainer: Any) -> None:
        self.trainer = trainer


# -- rounds


def test_a_run_grows_as_its_spec_says(whole: Path) -> None:
    head, *rounds = log_of(whole)
    assert [node[1] for node in head["began"]["nodes"]][:2] == ["o0", "o1"]
    assert [(line["at"], line["epoch"], line["step"]) for line in rounds] == [
        (1, 1, 4),
        (2, 2, 8),
        (3, 3, 12),
        (4, 4, 16),
    ]
    for line in rounds:
        assert [step["do"] for step in line["do"]] == ["prune"] * 2 + ["add"] * 3
        assert line["worth"].keys() == {step["name"] for step in line["do"][:2]}
    added = [step["name"] for line in rounds for step in line["do"] if step["do"] == "add"]
    assert len(set(added)) == 12
    sizes = [record["ops"]["layer"] for record in r2d2c.open_run(whole).metrics if "ops" in record]
    assert sizes == [8, 9, 10, 11, 12]
    summary = (whole / "summary.txt").read_text()
    assert "growth of layer: 4 rounds, 12 ops added, 8 pruned" in summary
    assert "ops layer" in summary


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ([f"{GROW}.every=epochs(2)"], [8, 16]),
        ([f"{GROW}.every=steps(3)"], [3, 6, 9, 12, 15, 18]),
        ([f"{GROW}.every=steps(3)", f"{GROW}.epochs=2"], [3, 6]),
        ([f"{GROW}.epochs=2"], [4, 8]),
        ([f"{GROW}.every=plateau(2)", *STILL], [9]),
        ([f"{GROW}.every=plateau(1)", *STILL], [6, 9, 12]),
    ],
)
def test_the_times_of_rounds(folder: Path, tmp_path: Path, settings: list[str], steps: list[int]) -> None:
    trained(folder, tmp_path / "run", *settings)
    assert [line["step"] for line in log_of(tmp_path / "run")[1:]] == steps


def test_the_capacity_and_the_last_op_are_limits(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "full", f"{GROW}.add=9", f"{GROW}.prune=1")
    assert [r["ops"]["layer"] for r in run.metrics if "ops" in r] == [8, 14, 14, 14, 14]
    # How many rounds there will be is not known before.
    shrinks = (f"{GROW}.every=plateau(1)", "train.optimizer=sgd(lr=0.0)", "train.monitor=loss")
    run = trained(folder, tmp_path / "least", *shrinks, f"{GROW}.add=0", f"{GROW}.prune=5", epochs=12)
    assert sorted({r["ops"]["layer"] for r in run.metrics if "ops" in r}) == [1, 3, 8]


def test_a_schedule_that_would_empty_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        trained(folder, tmp_path / "run", f"{GROW}.add=1", f"{GROW}.prune=3")
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (
        "E352",
        "round 4 of the growth of `layer` would leave no op: 3 of 2 go",
    )
    trained(folder, tmp_path / "three", f"{GROW}.add=1", f"{GROW}.prune=3", f"{GROW}.epochs=3")
    assert len(log_of(tmp_path / "three")) == 4


def test_the_depth_is_a_limit(folder: Path, tmp_path: Path) -> None:
    from r2d2c.opgraph import depths

    trained(folder, tmp_path / "run", f"{GROW}.depth=2", f"{GROW}.add=6", f"{GROW}.prune=0")
    assert depths(replay(tmp_path / "run")["layer"].topology).max() == 2


def test_the_seed_decides_what_grows(folder: Path, tmp_path: Path, whole: Path) -> None:
    trained(folder, tmp_path / "again")
    assert_same_run(whole, tmp_path / "again")
    trained(folder, tmp_path / "other", seed=1)
    assert log_of(tmp_path / "other")[1:] != log_of(whole)[1:]


# -- never start over


def grown(run: Path, *mutations: Any, name: str = "layer") -> tuple[Model, Model, Mutated]:
    """The model of a run as it is, and after mutations."""
    before, after = (r2d2c.open_run(run).load("last") for _ in range(2))
    growth = Growth(after, _NoOptimizer(), r2d2c.open_run(run).files)
    done = mutate(growth.topology(name), mutations, at=9)
    growth.apply(name, done)
    return before, after, done


def leaf_of(topology: Topology) -> str:
    """A node that no other reads."""
    reads = set(topology.args[topology.args >= topology.inputs].tolist())
    return next(name for name, row in topology.rows.items() if topology.inputs + row not in reads)


class _NoRun:
    path = Path()


class _NoOptimizer:
    def state_of(self, name: str) -> None:
        return None


def batch(seed: int = 3) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(33, 4, generator=made), "y": torch.arange(33) % 3}


def test_growing_keeps_every_output_to_the_last_bit(whole: Path) -> None:
    names = list(replay(whole)["layer"].topology.rows)
    new = [Add("n90", "mul", (names[0], names[-1])), Add("n91", "gauss", ("n90", 0.5))]
    before, after, done = grown(whole, *new)
    assert done.topology.count == len(names) + 2
    assert torch.equal(before(x=batch()["x"])["logits"], after(x=batch()["x"])["logits"])
    assert torch.equal(before.learn(**batch()).losses["classify"], after.learn(**batch()).losses["classify"])
    rows = [done.topology.rows[name] for name in ("n90", "n91")]
    weight, old = after.get_parameter(WEIGHT), before.get_parameter(WEIGHT)
    assert not weight[:, [4 + row for row in rows]].any()
    # The new ones learn as soon as there is a step, and nothing else learns otherwise than it would have.
    assert (weight.grad[:, [4 + row for row in rows]] != 0).any(0).all()
    kept = [column for column in range(weight.shape[1]) if column - 4 not in rows]
    assert torch.equal(weight.grad[:, kept], old.grad[:, kept])


def test_pruning_is_zeroing_the_column(whole: Path) -> None:
    topology = replay(whole)["layer"].topology
    leaf = leaf_of(topology)
    before, after, _ = grown(whole, Prune(leaf))
    with torch.no_grad():
        before.get_parameter(WEIGHT)[:, 4 + topology.rows[leaf]] = 0
    assert torch.equal(before(x=batch()["x"])["logits"], after(x=batch()["x"])["logits"])
    assert not torch.equal(
        r2d2c.open_run(whole).load("last")(x=batch()["x"])["logits"], after(x=batch()["x"])["logits"]
    )


# Written here once more, for torch's own gradients.
FORMULAS: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "gauss": lambda a, b: torch.exp(-((a - b) ** 2)),
    "sin": torch.sin,
    "gated": lambda a, b: a * torch.sigmoid(b),
}


class ByHand:
    """An op graph with its read-out in plain PyTorch: nodes by name, each with its row."""

    def __init__(self, began: dict[str, Any], model: Model) -> None:
        self.nodes = {name: (row, kind, args) for row, name, kind, args, _ in began["nodes"]}
        first = model.state_dict()
        self.numbers, self.weight, self.bias = (
            first[name].clone().requires_grad_() for name in (NUMBERS, WEIGHT, "classify.logits.linear.bias")
        )
        self.capacity = began["capacity"]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        known = {f"x{k}": x[:, k] for k in range(4)}
        pending = dict(self.nodes)
        while pending:
            for name, (row, kind, args) in list(pending.items()):
                if all(arg is None or arg in known for arg in args):
                    values = [
                        self.numbers[row, k].expand(len(x)) if arg is None else known[arg]
                        for k, arg in enumerate(args)
                    ]
                    known[name] = FORMULAS[kind](*values)
                    del pending[name]
        columns = [x, *(torch.zeros(len(x), 1) for _ in range(self.capacity))]
        for name, (row, _, _) in self.nodes.items():
            columns[1 + row] = known[name].unsqueeze(1)
        return torch.cat(columns, 1) @ self.weight.t() + self.bias

    def mutate(self, steps: list[dict[str, Any]], optimizer: torch.optim.Optimizer) -> None:
        for step in steps:
            if step["do"] == "prune":
                row = self.nodes.pop(step["name"])[0]
                self.reset(row, (0.0, 0.0, 0.0), optimizer)
            else:
                taken = {row for row, _, _ in self.nodes.values()}
                row = next(row for row in range(self.capacity) if row not in taken)
                args = [arg if isinstance(arg, str) else None for arg in step["args"]]
                starts = [0.0 if isinstance(arg, str) else arg for arg in step["args"]]
                self.nodes[step["name"]] = (row, step["kind"], args)
                self.reset(row, (*starts, *[0.0] * (3 - len(starts))), optimizer)

    def reset(self, row: int, numbers: tuple[float, ...], optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            self.numbers[row] = torch.tensor(numbers)
            self.weight[:, 4 + row] = 0
            for values, place in ((self.numbers, (row,)), (self.weight, (slice(None), 4 + row))):
                for value in optimizer.state[values].values():
                    if isinstance(value, torch.Tensor) and value.dim():
                        value[place] = 0


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adam(lr=0.01)", lambda values: torch.optim.Adam(values, lr=0.01)),
        ("sgd(lr=0.05, momentum=0.9)", lambda values: torch.optim.SGD(values, lr=0.05, momentum=0.9)),
        ("rmsprop(lr=0.01)", lambda values: torch.optim.RMSprop(values, lr=0.01)),
    ],
)
def test_training_goes_on_as_by_hand(
    folder: Path, tmp_path: Path, name: str, make: Callable[..., torch.optim.Optimizer]
) -> None:
    keep = Keep()
    run = trained(folder, tmp_path / "run", f"train.optimizer={name}", callbacks=[keep])
    head, *rounds = log_of(tmp_path / "run")
    hand = ByHand(head["began"], Model(run.spec))
    optimizer = make([hand.numbers, hand.weight, hand.bias])
    for epoch in range(5):
        if epoch:
            hand.mutate(rounds[epoch - 1]["do"], optimizer)
        for given in keep.trainer.loader.epoch(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(hand.logits(given["x"]), given["y"]).backward()
            optimizer.step()
    found = run.load("last").state_dict()
    torch.testing.assert_close(found[WEIGHT], hand.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[NUMBERS], hand.numbers.detach(), rtol=1e-4, atol=1e-5)


def test_numbers_that_stay_still(folder: Path, tmp_path: Path) -> None:
    """With a rate of 0 they have no optimizer; new ones start as the log says."""
    run = trained(folder, tmp_path / "still", "train.rates.layer=0.0")
    first, last = Model(run.spec).state_dict(), run.load("last").state_dict()
    old = [row for row in range(14) if last["layer.born"][row] == 0 and last["layer.kind"][row] >= 0]
    assert old and torch.equal(first[NUMBERS][old], last[NUMBERS][old])


# -- going on


@pytest.mark.parametrize(("epoch", "batch"), [(0, 4), (1, 4), (2, 4), (3, 4), (1, 1), (2, 2)])
def test_a_run_goes_on_in_the_midst_of_growth(
    folder: Path, tmp_path: Path, whole: Path, epoch: int, batch: int
) -> None:
    """Stopped after every epoch, right after a round, and between two."""
    with pytest.raises(Interrupted):
        trained(folder, tmp_path / "run", callbacks=[StopAt(epoch, batch)])
    run = r2d2c.train(resume=tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")
    assert not replay(run)["layer"].differences


@pytest.mark.parametrize("every", ["steps(3)", "plateau(1)"])
def test_a_crash_loses_no_round_and_makes_none_twice(folder: Path, tmp_path: Path, every: str) -> None:
    """The log has rounds that the last checkpoint does not know: they are made again, and are the same."""
    more = (f"{GROW}.every={every}", f"{GROW}.by=taylor", "train.optimizer=adam(lr=0.5)")

    class CrashError(RuntimeError):
        pass

    class Crashing:
        def on_step(self, step: Any) -> None:
            if (step.epoch, step.batch) == (3, 3):
                raise CrashError

    trained(folder, tmp_path / "whole", *more)
    with pytest.raises(CrashError):
        trained(folder, tmp_path / "run", *more, callbacks=[Crashing()])
    known = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors").state["growth"]["lines"]
    if every == "steps(3)":
        assert len(log_of(tmp_path / "run")) == known + 1
    with (tmp_path / "run" / "mutations.jsonl").open("a") as stream:
        stream.write('{"at": 7, "op_gr')  # the machine stopped while it wrote
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_more_epochs_grow_as_one_run_would(folder: Path, tmp_path: Path, whole: Path) -> None:
    trained(folder, tmp_path / "run", epochs=3)
    r2d2c.train(resume=tmp_path / "run", epochs=5)
    assert (tmp_path / "run" / "mutations.jsonl").read_text().splitlines()[1:] == (
        (whole / "mutations.jsonl").read_text().splitlines()[1:]
    )


# -- scores


def test_scores_are_what_they_say(whole: Path) -> None:
    model = r2d2c.open_run(whole).load("last").double()
    growth = Growth(model, _NoOptimizer(), r2d2c.open_run(whole).files)
    graph, topology = growth.graphs["layer"], growth.topology("layer")
    given = {name: t.double() if t.is_floating_point() else t for name, t in batch().items()}
    weight = model.get_parameter(WEIGHT).detach().numpy()
    seen = Watch(model, graph).look([given], slopes=True)
    found = scores(topology, seen, [weight], 12)
    hand = ByHand(to_data(topology), model)
    hand.numbers, hand.weight, hand.bias = hand.numbers.double(), hand.weight.double(), hand.bias.double()

    def loss(scaled: int | None = None, by: float = 1.0) -> float:
        """With one column of the read-out scaled: what its column adds to the logits is."""
        kept = hand.weight.clone()
        if scaled is not None:
            hand.weight[:, scaled] *= by
        value = torch.nn.functional.cross_entropy(hand.logits(given["x"]), given["y"])
        hand.weight = kept
        return float(value)

    with torch.no_grad():
        for name, row in topology.rows.items():
            column = seen.columns[:, 4 + row]
            norm = np.linalg.norm(weight[:, 4 + row])
            assert found["effect"][row] == pytest.approx(column.std() * norm), name
            assert found["magnitude"][row] == pytest.approx(norm)
            assert found["age"][row] == 12 - topology.born[row]
            read = (topology.args == 4 + row).any()
            if not read:  # of a leaf, scaling its column is scaling its weights
                slope = (loss(4 + row, 1 + 1e-6) - loss(4 + row, 1 - 1e-6)) / 2e-6
                assert found["taylor"][row] == pytest.approx(abs(slope), rel=1e-4, abs=1e-9), name


def test_the_least_worth_goes(folder: Path, tmp_path: Path, whole: Path) -> None:
    """By effect as it is by hand on the sample of the training data, leaves alone."""
    keep = Keep()
    trained(folder, tmp_path / "run", epochs=1, callbacks=[keep])
    trainer = keep.trainer
    model, growth = trainer.model, trainer.growth
    topology = growth.topology("layer")
    hand = ByHand(to_data(topology), model)
    x = torch.cat([given["x"] for given in trainer.sample()])
    with torch.no_grad():
        parts = {}
        for name, (row, _, _) in hand.nodes.items():
            kept, hand.weight = hand.weight, hand.weight.clone()
            hand.weight[:, [k for k in range(18) if k != 4 + row]] = 0
            parts[name] = float((hand.logits(x) - hand.bias).std(0, correction=0).norm())
            hand.weight = kept
    leaves = {
        name: worth for name, worth in parts.items() if not (topology.args == 4 + topology.rows[name]).any()
    }
    done = growth.round("layer", trainer.sample(), epoch=1, step=4)
    assert done is not None
    gone = [step["name"] for step in log_of(tmp_path / "run")[-1]["do"] if step["do"] == "prune"]
    assert gone[0] == min(leaves, key=leaves.__getitem__)
    assert log_of(tmp_path / "run")[-1]["worth"][gone[0]] == pytest.approx(leaves[gone[0]], rel=1e-4)


def test_formulas() -> None:
    given = {"effect": np.array([1.0, 4.0, np.nan]), "age": np.array([0.0, 2.0, 3.0])}
    text = "effect / (1 + age) ^ 2 + 3 * (age < 2) - max(sqrt(effect), -1)"
    spec = SPEC.replace("prune: 2", f"prune: 2\n      by: {text}\n      whole: true\n      prefer: gradient")
    checked = r2d2c.loads(spec)
    model = Model(checked)
    growing = Growth(model, _NoOptimizer(), _NoRun()).growing["layer"]
    assert (growing.every, growing.whole, growing.prefer) == (Every("epochs", 1), True, "gradient")
    found = evaluate(growing.by, given)
    assert found[0] == 1.0 + 3 - 1
    assert found[1] == pytest.approx(4 / 9 - 2)
    assert np.isnan(found[2])
    assert growing != Growing(Every("epochs", 1), 3, 2)
    plain = Growth(Model(r2d2c.loads(SPEC)), _NoOptimizer(), _NoRun()).growing["layer"]
    assert plain == Growing(Every("epochs", 1), 3, 2)


@pytest.mark.parametrize(
    "more", [[f"{GROW}.prefer=gradient"], [f"{GROW}.whole=true"], [f"{GROW}.by=magnitude + age"]]
)
def test_other_ways_to_choose_leave_a_log_that_replays(folder: Path, tmp_path: Path, more: list[str]) -> None:
    run = trained(folder, tmp_path / "run", *more)
    assert len(log_of(tmp_path / "run")) == 5
    assert replay(run)["layer"].differences == ()


def test_scores_that_are_nan_stop_and_keep_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        trained(folder, tmp_path / "run", f"{GROW}.by=log(0 - effect - 1)", f"{GROW}.every=epochs(2)")
    (found,) = caught.value.diagnostics
    assert found.code == "E571"
    assert (
        "round 1 of the growth of `layer` cannot be made: 8 of the prune scores are no numbers"
        in found.message
    )
    assert any("after epoch 2" in note for note in found.notes)
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert kept.state["epoch"] == 2
    assert r2d2c.evaluate(tmp_path / "run", split="train")["samples"] > 0
    assert not replay(tmp_path / "run")["layer"].differences


def test_a_stream_is_judged_by_the_batch_that_comes(folder: Path, tmp_path: Path) -> None:
    """A stream may be read once only: no batch of it is taken for looking."""
    taken: list[int] = []

    def stream(epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(4):
            taken.append(number)
            yield batch(10 * epoch + number)

    def count(every: str) -> int:
        taken.clear()
        trained(folder, tmp_path / every, f"{GROW}.every={every}", data=stream, epochs=3)
        assert not replay(tmp_path / every)["layer"].differences
        return len(taken)

    assert count("steps(3)") == count("steps(99)") >= 12
    assert [len(log_of(tmp_path / every)) for every in ("steps(3)", "steps(99)")] == [4, 1]


# -- several op graphs

TWO = (
    SPEC.replace(
        "tasks:\n",
        """\
  second:
    ops: [add, mul]
    capacity: 6
    start: 3
    normalise: batch
    grow: {every: steps(5), add: 2, prune: 1, by: taylor}
tasks:
  encode:
    behavior: |
      both = concat(x, layer(x))
      h = tanh(linear(both, 5))
    distance: cross_entropy(linear(h, C), y)
""",
    )
    .replace("columns = layer(x)", "columns = concat(second(encode.h), encode.h)")
    .replace("outputs:", "links:\n  encode.h -> classify: {credit: local}\noutputs:")
)


def test_two_op_graphs_in_two_tasks_behind_concats(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    data = f"csv:{folder / 'data.csv'}?target=y"
    run = r2d2c.train(path, out=tmp_path / "whole", data=data)
    by_graph = {
        name: [line["at"] for line in log_of(run.folder) if line["op_graph"] == name and "at" in line]
        for name in ("layer", "second")
    }
    assert by_graph == {"layer": [1, 2, 3, 4], "second": [1, 2, 3]}
    found = replay(run)
    assert all(one.differences == () for one in found.values())
    for name, weight, offset in (("layer", "encode.h.linear.weight", 4), ("second", WEIGHT, 0)):
        topology = found[name].topology
        leaf = leaf_of(topology)
        before, after, done = grown(run.folder, Prune(leaf), Add("n90", "mul", ("x0", "x1")), name=name)
        row = done.topology.rows["n90"]
        assert row == topology.rows[leaf] or topology.count < topology.capacity
        if name == "second":
            new, old = after.state_dict(), before.state_dict()
            assert (float(new["second.mean"][row]), float(new["second.variance"][row])) == (0, 1)
            assert (old["second.mean"][row], old["second.variance"][row]) != (0, 1)
        with torch.no_grad():
            before.get_parameter(weight)[:, offset + topology.inputs + topology.rows[leaf]] = 0
        assert torch.equal(before(x=batch()["x"])["logits"], after(x=batch()["x"])["logits"]), name
    with pytest.raises(Interrupted):
        r2d2c.train(path, out=tmp_path / "run", data=data, callbacks=[StopAt(2, 2)])
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# -- the log


def test_a_log_rebuilds_every_topology(folder: Path, tmp_path: Path) -> None:
    """That of each checkpoint, by the rounds that it knows."""
    seen: list[Topology] = []

    class Look(Keep):
        def on_epoch(self, info: Any) -> None:
            seen.append(self.trainer.growth.topology("layer"))

    run = trained(folder, tmp_path / "run", callbacks=[Look()])
    for at, topology in enumerate(seen):
        assert differences(replay(run, at=at)["layer"].topology, topology) == []
    assert differences(seen[1], seen[2]) != []
    with pytest.raises(CompileError, match="E573"):
        replay(run, at=5)


def test_what_a_topology_is_as_json(whole: Path) -> None:
    topology = replay(whole)["layer"].topology
    again = of_data(json.loads(json.dumps(to_data(topology))))
    assert differences(again, topology) == []
    assert (again.names, again.next) == (topology.names, topology.next)
    for wrong in (
        {},
        None,
        {"inputs": 4, "capacity": 1, "next": 0, "nodes": [[0, "o", "mul", ["x0", "x9"], 0]]},
    ):
        with pytest.raises(MutationError, match="does not say"):
            of_data(wrong)


def test_a_log_of_another_spec_is_refused(folder: Path, tmp_path: Path, whole: Path) -> None:
    other = trained(folder, tmp_path / "other", seed=7)
    shutil.copy(whole / "mutations.jsonl", other.folder / "mutations.jsonl")
    with pytest.raises(CompileError, match=r"E572.*of another spec"):
        replay(other)


def damaged(lines: list[str], tmp: Path, whole: Path) -> str:
    run = tmp / "copy"
    shutil.copytree(whole, run)
    (run / "mutations.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(CompileError) as caught:
        replay(run)
    shutil.rmtree(run)
    (found,) = caught.value.diagnostics
    assert found.code == "E572"
    return found.message


def test_a_log_that_was_changed_is_refused(tmp_path: Path, whole: Path) -> None:
    lines = (whole / "mutations.jsonl").read_text().splitlines()
    assert "4 whole lines, and the checkpoint knows 5" in damaged(lines[:-1], tmp_path, whole)
    swapped = [lines[0], lines[2], lines[1], *lines[3:]]
    assert "cannot be replayed" in damaged(swapped, tmp_path, whole)
    other = [line.replace('"x0"', '"x3"') for line in lines]
    assert "cannot be replayed" in damaged(other, tmp_path, whole)
    assert "cut off" in damaged([*lines[:2], lines[2][:30], *lines[3:]], tmp_path, whole)
    with pytest.raises(MutationError, match="empty"):
        rebuild([], "x")
    with pytest.raises(CompileError, match=r"E572.*has no mutations.jsonl"):
        (tmp_path / "none").mkdir()
        shutil.copytree(whole, tmp_path / "bare")
        (tmp_path / "bare" / "mutations.jsonl").unlink()
        replay(tmp_path / "bare")


def test_a_log_that_lost_lines_is_told_and_training_goes_on(
    folder: Path, tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(folder, tmp_path / "run", callbacks=[StopAt(2, 4)])
    path = tmp_path / "run" / "mutations.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    said: list[str] = []

    class Hear:
        def on_warning(self, diagnostic: Any) -> None:
            said.append(diagnostic.code)

    r2d2c.train(resume=tmp_path / "run", callbacks=[Hear()])
    assert said == ["W574"]
    one, other = (r2d2c.open_run(run).load("last").state_dict() for run in (whole, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_log_on_disk(tmp_path: Path, whole: Path) -> None:
    log = GrowthLog(tmp_path)
    assert log.lines() == []
    topology = replay(whole)["layer"].topology
    assert log.create("spec", {"layer": topology}) == 1
    after = mutate(topology, [Prune(name) for name in ()], at=1).topology
    log.append("layer", 1, [], after, step=3)
    log.path.write_bytes(log.path.read_bytes() + b'{"at": 2')
    assert len(log.lines()) == 2
    sink = Sink()
    assert log.keep(2, sink) == 2 and log.path.read_bytes().endswith(b"\n")
    assert log.keep(1, sink) == 1 and len(log.lines()) == 1
    assert sink.diagnostics == []
    assert log.keep(3, sink) == 1 and [d.code for d in sink.diagnostics] == ["W574"]
