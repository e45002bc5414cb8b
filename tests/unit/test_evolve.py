"""Searches over op graphs: candidates, their order and their weights, searches that go on, the ensemble."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.model import Model
from r2d2c.mutate import Add, mutate
from r2d2c.mutations import from_json
from r2d2c.opgraph import Topology
from r2d2c.ops.op_graph import TABLE
from r2d2c.ops.op_graph_rows import topology_of
from r2d2c.train.checkpoint import Checkpoint, load_checkpoint
from r2d2c.train.evolve import Evolution, Search, evolve
from r2d2c.train.evolve_store import Candidate, Store, ranked
from r2d2c.train.evolve_worker import Job, Maker, Place
from r2d2c.train.growth_log import differences
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.replay import replay
from tests.unit.runs import write_table

SPEC = """\
r2d2c: 1
model: sums
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss, sin]
    capacity: 9
    start: 3
    nodes:
      o0: x[0] + p
    normalise: batch
tasks:
  classify:
    behavior: logits = linear(layer(x), 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train:
  data: csv:data.csv?target=y
  batch_size: 16
  split: 0.3
  optimizer: adam(lr=0.02)
  monitor: loss
  metrics: ["accuracy(logits, y)"]
"""
GROWN = SPEC.replace(
    "    normalise: batch\n", "    grow: {every: epochs(1), add: 3, prune: 2, by: taylor, depth: 3}\n"
)
WEIGHT, SMALL = "classify.logits.linear.weight", {"population": 3, "generations": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("evolve")
    write_table(made / "data.csv", "abc", 60, lambda v: "yes" if v[0] * v[1] + 0.3 * v[2] > 0 else "no")
    (made / "sums.yaml").write_text(SPEC)
    (made / "grown.yaml").write_text(GROWN)
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Evolution:
    """A search in one go, in this process."""
    return evolve(folder / "sums.yaml", out=folder / "whole", **SMALL)


def told(found: Evolution) -> list[dict[str, Any]]:
    return [candidate.json() for candidate in found.candidates]


def saved(found: Evolution | Path, number: int) -> Checkpoint:
    base = found if isinstance(found, Path) else found.folder
    return load_checkpoint(base / "candidates" / str(number) / "checkpoints" / "last.safetensors")


def table(checkpoint: Checkpoint) -> Topology:
    rows = {part: checkpoint.model[f"layer.{part}"].numpy() for part in TABLE}
    return topology_of(rows, 3, ("o0",))


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    """Weights, statistics, tables and the optimizers' state, to the last bit."""
    assert one.model.keys() == other.model.keys() and one.optimizers.keys() == other.optimizers.keys()
    pairs = [(one.model[name], other.model[name]) for name in one.model]
    for key, packed in one.optimizers.items():
        assert packed.tensors.keys() == other.optimizers[key].tensors.keys()
        pairs += [(packed.tensors[name], other.optimizers[key].tensors[name]) for name in packed.tensors]
    assert all(torch.equal(first, second) for first, second in pairs)


def assert_same_search(one: Evolution, other: Evolution) -> None:
    assert told(one) == told(other)
    assert [c.id for c in one.best] == [c.id for c in other.best] and one.test == other.test
    for candidate in one.candidates:
        if candidate.checkpoint:
            assert_same(saved(one, candidate.id), saved(other, candidate.id))


def maker_of(found: Evolution, epochs: int) -> Maker:
    return Maker(Place(found.folder, found.folder.parent, "sums.yaml", epochs, 3))


def never() -> bool:
    return False


def test_the_population_is_the_best_there_are(whole: Evolution) -> None:
    assert [c.generation for c in whole.candidates] == [0, 1, 1, 1, 2, 2, 2]
    assert all(c.state == "done" for c in whole.candidates)
    assert whole.search.better == "lower"
    by_hand = sorted(whole.candidates, key=lambda c: (c.metric, c.id))[:3]
    assert list(whole.best) == by_hand
    kept = {c.id for c in whole.candidates if c.checkpoint}
    assert kept == {c.id for c in by_hand}
    assert {int(path.name) for path in (whole.folder / "candidates").iterdir()} == kept
    # Parents are of the better half of those before.
    for generation in (1, 2):
        before = sorted(
            (c for c in whole.candidates if c.generation < generation), key=lambda c: (c.metric, c.id)
        )
        parents = {c.parent for c in whole.candidates if c.generation == generation}
        assert parents == {c.id for c in before[: (min(3, len(before)) + 1) // 2]}
    assert len({c.seed for c in whole.candidates}) == 7


def test_what_is_noted_of_a_candidate_is_what_its_run_measures(whole: Evolution) -> None:
    for candidate in whole.best:
        found = r2d2c.evaluate(whole.run(candidate), split="validation")
        assert found["loss"] == candidate.metric
        assert table(saved(whole, candidate.id)).count == candidate.ops["layer"]


def test_the_number_of_workers_changes_nothing(folder: Path, whole: Evolution) -> None:
    assert_same_search(whole, evolve(folder / "sums.yaml", out=folder / "two", workers=2, **SMALL))


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_search_that_was_stopped_goes_on(folder: Path, whole: Evolution, after: int) -> None:
    class Stop:
        def on_candidate(self, search: Search, candidate: Candidate) -> None:
            if candidate.id == after:
                os.kill(os.getpid(), signal.SIGINT)

    out = folder / f"stopped-{after}"
    with pytest.raises(Interrupted):
        evolve(folder / "sums.yaml", out=out, callbacks=[Stop()], **SMALL)
    made: list[int] = []

    class Watch:
        def on_candidate(self, search: Search, candidate: Candidate) -> None:
            made.append(candidate.id)

    found = evolve(folder / "sums.yaml", out=out, callbacks=[Watch()], **SMALL)
    assert made == list(range(after + 1, 7))
    assert_same_search(whole, found)


def test_a_candidate_that_was_stopped_within_is_made_again(folder: Path, whole: Evolution) -> None:
    best = whole.best[0]
    maker, asked = maker_of(whole, 1), 0
    child = Candidate(90, best.id, 3, 5)

    def second() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    assert maker.make(Job(child), second) is None and asked == 2
    again = maker.make(Job(child), never)
    one = saved(whole, 90)
    other = maker.make(Job(replace(child, id=91)), never)
    assert again is not None and other is not None
    assert again.candidate.metric == other.candidate.metric and again.candidate.mutations
    assert_same(one, saved(whole, 91))


def test_more_generations_go_on_from_the_last(folder: Path, whole: Evolution) -> None:
    short = evolve(folder / "sums.yaml", out=folder / "more", population=3, generations=1)
    assert len(short.candidates) == 4
    assert_same_search(whole, evolve(folder / "sums.yaml", out=folder / "more", **SMALL))


def test_a_child_without_mutations_and_epochs_is_its_parent(whole: Evolution) -> None:
    parent = whole.best[0]
    job = Job(Candidate(99, parent.id, 3, 0), {})
    result = maker_of(whole, 0).make(job, never)
    assert result is not None and result.candidate.metric == parent.metric
    assert_same(saved(whole, 99), saved(whole, parent.id))


def test_a_child_begins_as_what_its_parent_says(whole: Evolution) -> None:
    """Ops that are added change no output; numbers and columns of the others stay, and so does their optimizer state."""
    parent = whole.best[0]
    before = saved(whole, parent.id)
    start = table(before)
    new = Add(f"n{start.next}", "mul", ("x0", "x2"))
    result = maker_of(whole, 0).make(Job(Candidate(98, parent.id, 3, 0), {"layer": [new]}), never)
    assert result is not None and result.candidate.metric == parent.metric
    after = saved(whole, 98)
    row = table(after).rows[new.name]
    assert not after.model[WEIGHT][:, 3 + row].any()
    other = [column for column in range(12) if column != 3 + row]
    assert torch.equal(after.model[WEIGHT][:, other], before.model[WEIGHT][:, other])
    (moments,) = [
        packed.tensors for packed in after.optimizers.values() if f"{WEIGHT}/exp_avg" in packed.tensors
    ]
    (old,) = [
        packed.tensors for packed in before.optimizers.values() if f"{WEIGHT}/exp_avg" in packed.tensors
    ]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(moments[f"{WEIGHT}/{key}"][:, other], old[f"{WEIGHT}/{key}"][:, other])
        assert not moments[f"{WEIGHT}/{key}"][:, 3 + row].any()


@pytest.mark.parametrize("name", ["sums", "grown"])
def test_mutations_that_are_noted_make_the_child(folder: Path, name: str) -> None:
    found = evolve(folder / f"{name}.yaml", out=folder / f"noted-{name}", population=5, generations=1)
    start = table(saved(found, 0)) if found.candidates[0].checkpoint else None
    if start is None:
        model = Model(r2d2c.load(folder / f"{name}.yaml"))
        rows = {part: model.get_buffer(f"layer.{part}").numpy() for part in TABLE}
        start = topology_of(rows, 3, ("o0",))
    children = [c for c in found.candidates if c.parent == 0]
    assert len({str(c.mutations) for c in children}) > 1
    for child in children:
        steps = [from_json(step) for step in child.mutations["layer"]]
        assert 1 <= len(steps) <= (5 if name == "grown" else 2)
        made = mutate(start, steps, at=1).topology
        assert made.count == child.ops["layer"]
        if child.checkpoint:
            assert differences(made, table(saved(found, child.id))) == []
            if name == "grown":  # its run has a log, from its parent on
                rebuilt = replay(found.run(child))["layer"]
                assert rebuilt.differences == () and rebuilt.rounds == 1


def test_a_full_op_graph_prunes_before_it_adds(folder: Path) -> None:
    """Nine rows are full after five ops more; then every addition takes the place of another op."""
    found = evolve(
        folder / "grown.yaml",
        out=folder / "full",
        population=2,
        generations=6,
        settings=["train.batch_size=60"],
    )
    assert max(c.ops["layer"] for c in found.candidates) <= 9
    late = [c for c in found.candidates if c.generation]
    assert all(c.state == "done" and c.mutations["layer"] for c in late)


def test_the_ensemble_is_the_mean(folder: Path, whole: Evolution) -> None:
    split = r2d2c.predict(whole.run(whole.best[0]), split="test")
    each = [r2d2c.predict(whole.run(c), split="test")["logits"].astype(np.float64) for c in whole.best]
    mean = np.mean(each, 0)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([whole.run(c).model(x=x)["logits"] for c in whole.best]).mean(0)
    assert torch.allclose(whole.ensemble(x=x)["logits"], by_hand, rtol=0, atol=1e-6)
    names = np.array(["no", "yes"])
    lines = (folder / "data.csv").read_text().split("\n")[1:-1]
    label = {tuple(line.split(",")[:3]): line.split(",")[3] for line in lines}
    assert len(label) == 60 and len(split) == len(mean)
    test = maker_of(whole, 1).loaded.bound.test
    assert test is not None
    truth = np.concatenate([batch["y"].numpy() for batch in test.loader(16).epoch(0)])
    assert whole.test["ensemble"]["accuracy(logits, y)"] == pytest.approx((mean.argmax(1) == truth).mean())
    assert whole.test["best"]["accuracy(logits, y)"] == pytest.approx((each[0].argmax(1) == truth).mean())
    assert set(split.classes["logits"]) <= set(names)


def test_formulas_are_of_the_best_by_their_weights(whole: Evolution) -> None:
    checkpoint = saved(whole, whole.best[0].id)
    norms = checkpoint.model[WEIGHT].double().norm(dim=0)[3:]
    rows = table(checkpoint).rows
    assert list(whole.formulas()["layer"]) == sorted(rows, key=lambda name: -float(norms[rows[name]]))[:8]
    assert len(whole.formulas(2)["layer"]) == 2


def test_a_candidate_that_diverges_ends_alone(folder: Path, whole: Evolution) -> None:
    """Weights so large that the loss is no number: it is noted, and nothing is raised."""
    from r2d2c.train.checkpoint import save_checkpoint

    path = whole.folder / "candidates" / "97" / "checkpoints"
    path.mkdir(parents=True)
    bad = saved(whole, whole.best[0].id)
    bad.model[WEIGHT].fill_(float("nan"))
    save_checkpoint(path / "last.safetensors", bad)
    result = maker_of(whole, 1).make(Job(Candidate(96, 97, 3, 0), {}), never)
    assert result is not None and result.candidate.state == "diverged" and result.candidate.metric is None
    assert [d.code for d in result.reasons] == ["E536"]
    found = [Candidate(1, None, 0, 0, "done", 0.5), result.candidate, Candidate(0, None, 0, 0, "done", 0.5)]
    assert [c.id for c in ranked(found, "higher")] == [0, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "has another seed"),
        ({"settings": ["train.batch_size=8"]}, "has another spec"),
        ({"epochs": 2}, "has another number of epochs"),
        ({"population": 4}, "has another size of the population"),
    ],
)
def test_another_search_in_the_folder_is_refused(
    folder: Path, whole: Evolution, change: dict[str, Any], said: str
) -> None:
    before = (whole.folder / "spec.yaml").read_bytes()
    with pytest.raises(CompileError, match=f"E575.*{said}"):
        evolve(folder / "sums.yaml", out=whole.folder, **{**SMALL, **change})
    assert (whole.folder / "spec.yaml").read_bytes() == before


def test_a_schedule_is_spread_over_all_generations(folder: Path, tmp_path: Path) -> None:
    """The rate of a child goes on from its parent's, down to the end in the last generation; so that is fixed."""
    given: dict[str, Any] = {"out": tmp_path / "out", "settings": ["train.schedule=cosine"], "epochs": 2}
    found = evolve(folder / "sums.yaml", population=2, generations=1, **given)
    rates = {c.generation: [line["lr"] for line in found.run(c).metrics if "lr" in line] for c in found.best}
    assert all(len(rate) == 2 for rate in rates.values())
    for first, second in rates.values():
        assert 0 <= second < first <= 0.02
    if 0 in rates and 1 in rates:
        assert rates[1][0] < rates[0][1]
    with pytest.raises(CompileError, match=r"E575.*has another number of generations"):
        evolve(folder / "sums.yaml", population=2, generations=2, **given)


def test_two_searches_at_once_in_a_folder_are_refused(folder: Path, whole: Evolution) -> None:
    store = Store(whole.folder)
    try:
        with pytest.raises(CompileError, match=r"E575.*in use by another search"):
            evolve(folder / "sums.yaml", out=whole.folder, **SMALL)
    finally:
        store.close()


def test_folders_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(CompileError, match="E522"):
        evolve(folder / "sums.yaml", out=tmp_path, **SMALL)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "evolve.db").write_text("no database" * 100)
    with pytest.raises(CompileError, match=r"E575.*cannot be used"):
        evolve(folder / "sums.yaml", out=tmp_path / "damaged", **SMALL)


def test_children_keep_to_what_grow_says(folder: Path, tmp_path: Path) -> None:
    """Scores, merges, splits, compensation and frozen ops are those of rounds; each child's log replays."""
    grow = "{every: epochs(1), add: 3, prune: 2, by: saliency / depth, compensate: true, split: 1, merge: 2, below: 1e-9, frozen: [o0, n2]}"
    text = SPEC.replace("    normalise: batch\n", f"    grow: {grow}\n")
    (tmp_path / "kept.yaml").write_text(text.replace("x[0] + p\n", "x[0] + p\n      o1: gauss(x[1], p)\n"))
    (tmp_path / "data.csv").write_text((folder / "data.csv").read_text())
    found = evolve(tmp_path / "kept.yaml", out=tmp_path / "out", population=5, generations=2)
    steps = [step for c in found.candidates for step in c.mutations.get("layer", ())]
    assert {"add", "prune", "split"} <= {step["do"] for step in steps}
    assert not {step.get("gone", step["name"]) for step in steps if step["do"] != "add"} & {"o0", "n2"}
    first = saved(found, found.candidates[0].id)
    alive = [c for c in found.candidates if (found.folder / "candidates" / str(c.id)).is_dir()]
    assert any(c.parent is not None for c in alive)
    for candidate in alive:
        made = saved(found, candidate.id)
        assert made.state["growth"]["frozen"] == {"layer": ["n2", "o0"]}
        rows = [first.model["layer.number"].tolist().index(number) for number in (0, 2)]
        assert torch.equal(first.model["layer.numbers"][rows], made.model["layer.numbers"][rows])
        assert replay(found.folder / "candidates" / str(candidate.id))["layer"].differences == ()


def test_data_without_validation_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "unsplit.yaml").write_text(SPEC.replace("  split: 0.3\n", ""))
    with pytest.raises(CompileError, match=r"E577.*has no validation split"):
        evolve(folder / "unsplit.yaml", out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        SPEC.replace("    ops: [add, mul, gauss, sin]\n", "").replace("    start: 3\n", ""),
        SPEC.replace("linear(layer(x), 2)", "layer(x) |> tanh |> linear(2)"),
    ],
    ids=["no kinds", "read by tanh"],
)
def test_specs_with_nothing_to_change_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "fixed.yaml").write_text(text)
    with pytest.raises(CompileError, match=r"E576.*has no op graph that can change"):
        evolve(folder / "fixed.yaml", out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
