"""An op graph that grows in a real training: hundreds of mutations, chosen by hypothesis, against books kept by hand.

The data are Fashion-MNIST's images, averaged over 4×4 pixels to 49 columns. Where that is not installed, they are
scikit-learn's digits, averaged over 2×2 pixels to as many.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from r2d2c.diagnostics import Sink
from r2d2c.model import Model
from r2d2c.mutate import Freeze, Merge, MutationError, Prune, Split, Thaw, mutate
from r2d2c.mutate_checks import problems
from r2d2c.mutation_log import digest
from r2d2c.mutations import Add, from_json
from r2d2c.opgraph import NUMBER, depths
from r2d2c.train.checkpoint import Checkpoint, load_checkpoint, pack_rng, save_checkpoint
from r2d2c.train.chunks import learn_batch
from r2d2c.train.flat import FlatStep
from r2d2c.train.growth_log import arguments, rebuild
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.run_folder import Lock, RunFolder
from r2d2c.train.weights import load_weights
from tests.properties.growth_books import (
    CAPACITY,
    COLUMNS,
    MEAN,
    NAME,
    NUMBERS,
    READERS,
    SCORES,
    SPEC,
    VARIANCE,
    Books,
    checked,
    checked_growing,
)


class Growing(Books, RuleBasedStateMachine):
    """A training. The model to compare with: a dict of nodes by name, told of each mutation in words."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.mutations = self.adds = self.learned = 0
        self.idle = []

    @initialize(flat=st.booleans(), seed=st.integers(0, 99))
    def begin(self, flat: bool, seed: int) -> None:
        record = next(record for record in OPTIMIZERS if record.name == "adam")
        # An optimizer that is not elementwise has no flat step.
        self.record = record if flat else dataclasses.replace(record, elementwise=False)
        lock = Lock.of(SPEC, seed=seed, threads=1, device="cpu")
        self.run_folder = RunFolder.create(self.folder / "run", spec=SPEC, lock=lock)
        self.model, self.stepper, self.growth = self.build()
        assert isinstance(self.stepper._steps[0], FlatStep) == flat
        self.twin = Model(checked("effect"))
        self.stepper.zero_grad()
        self.growth.begin(10, None)
        self.replayed, self.read = self.topology, len(self.growth.log.lines())
        self.used = set(self.topology.rows)
        self.shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        self.lived = torch.from_numpy(self.topology.live)
        self.first = {
            name: self.model.get_parameter(name).detach()[:, COLUMNS:].t().clone() for name in READERS
        }
        self.learn(1)

    # -- rules
    @rule(count=st.integers(1, 3))
    def learn(self, count: int) -> None:
        before = digest(self.topology)
        for _ in range(count):
            self.learned += 1
            losses = learn_batch(self.model, self.stepper, self.batch(self.learned), {}, None)
            assert all(bool(torch.isfinite(loss).all()) for loss in losses.values())
        assert digest(self.topology) == before
        self.nodes, self.kept = self.snapshot(), self.rest()

    @rule(by=st.sampled_from(SCORES), whole=st.booleans(), gradient=st.booleans())
    def prune_and_add(self, by: str, whole: bool, gradient: bool) -> None:
        self.round(prune=4, add=5, by=by, whole=whole, gradient=gradient)

    @precondition(lambda self: self.topology.count > 8)
    @rule(by=st.sampled_from(SCORES), whole=st.booleans())
    def prune(self, by: str, whole: bool) -> None:
        self.round(prune=3, add=0, by=by, whole=whole, gradient=False)

    @rule(count=st.integers(1, 6), gradient=st.booleans())
    def add(self, count: int, gradient: bool) -> None:
        shown = self.outputs()
        self.round(prune=0, add=count, by="effect", whole=False, gradient=gradient)
        assert all(torch.equal(tensor, shown[name]) for name, tensor in self.outputs().items())

    def round(self, *, prune: int, add: int, by: str, whole: bool, gradient: bool) -> None:
        growing = checked_growing(by)
        self.growth.growing[NAME] = dataclasses.replace(
            growing, prune=prune, add=add, whole=whole, prefer="gradient" if gradient else "any"
        )
        before, topology = self.snapshot(), self.topology
        shown = self.outputs()
        done = self.growth.round(NAME, [self.batch(self.learned + 1)], epoch=0, step=self.learned)
        if done is None:
            assert not prune and (topology.count == CAPACITY or not add)
            return
        steps = self.last_steps()
        gone = self.gone(topology, [step for step in steps if isinstance(step, Prune)])
        new = [step for step in steps if isinstance(step, Add)]
        assert len(gone) <= prune and len(new) <= add and len(steps) >= 1
        assert len(new) == min(add, CAPACITY - topology.count + len(gone)) or len(new) < add
        assert self.topology.rows.keys() == (before.keys() - gone) | {step.name for step in new}
        self.compare(before, {step.name for step in new})
        wanted = self.without(topology, gone) if gone else shown
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in self.outputs().items())
        for step in new:
            self.check_new(step)
        self.check_gradients([step.name for step in new])
        self.note(len(steps))

    @rule(number=st.integers(0, 99), share=st.sampled_from([0.0, 0.25]), some=st.integers(0, 2))
    def split(self, number: int, share: float, some: int) -> None:
        name, topology = self.pick(number), self.topology
        row, into = topology.rows[name], f"n{topology.next}"
        readers = [n for n, r in topology.rows.items() if (topology.args[r] == COLUMNS + row).any()]
        step, shown = Split(name, into, tuple(readers[:some]), share), self.outputs()
        try:
            before = self.mutated(step)
        except MutationError as error:
            full = topology.count == CAPACITY
            assert full if error.reason == "full" else None not in arguments(topology, row), error
            return
        self.compare(before, {into}, but=name, moved={name: into})
        after = self.snapshot()
        for key, value in before[name].rows.items():
            one, two = after[name].rows[key], after[into].rows[key]
            if key in READERS:
                torch.testing.assert_close(one, value * (1 - share))
                torch.testing.assert_close(two, value * share)
            else:
                assert torch.equal(one, value) and torch.equal(two, value), key
        for key, tensor in self.outputs().items():
            if share:
                torch.testing.assert_close(tensor, shown[key], rtol=1e-4, atol=1e-4)
            else:
                assert torch.equal(tensor, shown[key])

    @rule(first=st.integers(0, 99), second=st.integers(0, 99))
    def merge(self, first: int, second: int) -> None:
        name, gone = self.pick(first), self.pick(second)
        try:
            before = self.mutated(Merge(name, gone))
        except MutationError as error:
            assert error.reason in ("same", "cycle", "dead", "limit"), error
            return
        self.compare(before, set(), but=name, moved={gone: name})
        after = self.snapshot()[name]
        assert gone not in self.topology.rows
        for key, value in before[name].rows.items():
            if key in READERS:
                torch.testing.assert_close(after.rows[key], value + before[gone].rows[key])
            elif key in (NUMBERS, MEAN, VARIANCE):
                assert torch.equal(after.rows[key], value), key

    @rule(number=st.integers(0, 99))
    def freeze(self, number: int) -> None:
        """It cannot go while it is frozen. Here it thaws again, as rounds do not ask this test what is frozen."""
        name, topology = self.pick(number), self.topology
        frozen = mutate(topology, [Freeze(name)], at=self.next_at).frozen
        try:
            mutate(topology, [Prune(name, dependents=True)], frozen=frozen)
        except MutationError as error:
            assert error.reason == "frozen"
        else:
            raise AssertionError("a frozen node was pruned")
        before = self.mutated(Freeze(name), Thaw(name))
        self.compare(before, set())

    @rule()
    def save_and_load(self) -> None:
        """What goes on from a checkpoint learns the same, to the last bit."""
        path = self.folder / "saved.safetensors"
        kept = {"growth": self.growth.state(), "step": self.model._step}
        save_checkpoint(path, Checkpoint(self.model.state_dict(), self.stepper.pack(), pack_rng(), kept))
        old = self.model, self.stepper, self.growth
        shown, before = self.outputs(), self.snapshot()
        model, stepper, growth = self.build()
        found, sink = load_checkpoint(path), Sink()
        load_weights(model, found.model)
        stepper.zero_grad()
        stepper.unpack(found.optimizers, None)
        model._step = found.state["step"]
        growth.load(found.state["growth"], sink)
        assert not sink.diagnostics and growth.state() == self.growth.state()
        self.model, self.stepper, self.growth = model, stepper, growth
        self.compare(before, set())
        assert all(torch.equal(tensor, shown[name]) for name, tensor in self.outputs().items())
        self.learned += 1
        for one, step, _ in (old, (model, stepper, growth)):
            learn_batch(one, step, self.batch(self.learned), {}, None)
        theirs = old[0].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
        self.nodes, self.kept = self.snapshot(), self.rest()

    # -- after every rule
    @invariant()
    def the_table_is_sound(self) -> None:
        topology = self.topology
        assert not problems(topology)
        assert 1 <= topology.count <= CAPACITY and depths(topology).max() <= CAPACITY
        assert topology.rows.keys() == self.nodes.keys() <= self.used
        # By names alone: who is reached from the inputs, step by step.
        reached: set[object] = set(range(COLUMNS)) | {NUMBER}
        left = {name: set(node.reads[1:]) for name, node in self.nodes.items()}
        while ready := [name for name, reads in left.items() if reads <= reached]:
            reached.update(ready)
            for name in ready:
                del left[name]
        assert not left

    @invariant()
    def nothing_changes_by_itself(self) -> None:
        now = self.snapshot()
        for name, node in self.nodes.items():
            assert now[name].reads == node.reads and now[name].born == node.born
            assert all(torch.equal(now[name].rows[key], value) for key, value in node.rows.items()), name
        self.before_tables = {
            part: self.model.get_buffer(f"{NAME}.{part}").clone()
            for part in ("kind", "args", "number", "born", "next")
        }

    @invariant()
    def shapes_stay_and_free_rows_are_as_new(self) -> None:
        assert {name: tensor.shape for name, tensor in self.model.state_dict().items()} == self.shapes
        live = torch.from_numpy(self.topology.live)
        self.lived |= live
        for key, tensor in self.tensors().items():
            new = torch.full_like(tensor, float(key == VARIANCE))
            if (
                key in READERS
            ):  # a row that never had a node has the weights that it began with, until it gets one
                new[~self.lived] = self.first[key][~self.lived]
            assert torch.equal(tensor[~live], new[~live]), key

    @invariant()
    def the_log_gives_the_same_table(self) -> None:
        lines = self.growth.log.lines()
        assert len(lines) == self.growth.lines
        for text in lines[self.read :]:
            data = json.loads(text)
            steps = [from_json(step) for step in data["do"]]
            self.replayed = mutate(self.replayed, steps, at=data["at"]).topology
        self.read = len(lines)
        assert digest(self.replayed) == digest(self.topology)

    def teardown(self) -> None:
        if hasattr(self, "replayed"):
            fingerprint = self.run_folder.lock.spec_sha256
            whole = rebuild(self.growth.log.lines(), fingerprint)[NAME].topology
            assert digest(whole) == digest(self.topology) and whole.names == self.topology.names
            assert np.array_equal(whole.args, self.topology.args)
            assert len(self.idle) <= 0.05 * self.adds + 1, self.idle
        shutil.rmtree(self.folder)


def test_every_invariant_holds_over_hundreds_of_mutations_in_training() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_state_machine_as_test(
            Growing,
            settings=settings(
                max_examples=8,
                stateful_step_count=90,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
    finally:
        torch.set_num_threads(threads)
    assert Books.most >= 200
