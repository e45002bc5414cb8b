"""200 mutations in a row, chosen by hypothesis: tables stay sound, and everything follows the nodes' names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from r2d2c.lower.opgraph import columns, load
from r2d2c.mutate import (
    AddInputs,
    Freeze,
    Limits,
    Merge,
    Mutated,
    Mutation,
    MutationError,
    Split,
    Thaw,
    Widen,
    mutate,
)
from r2d2c.mutate_checks import downstream, problems
from r2d2c.mutation_choice import Bias, Draw, additions, generator, prunes
from r2d2c.mutation_log import digest, head, line, replay
from r2d2c.opgraph import ARITY, NUMBER, OP_KINDS, Topology, depths, empty, plan
from r2d2c.train import growth_rows
from r2d2c.train.checkpoint import pack_state
from r2d2c.train.flat import FlatStep
from r2d2c.train.optimizers import OPTIMIZERS

ADAM = next(record for record in OPTIMIZERS if record.name == "adamw")
NUMBERS, READOUT, MEAN, VAR = "numbers", "readout", "mean", "var"
LIMITS = Limits(nodes=30, depth=9)


@dataclass
class Node:
    """What belongs to one name: rows of tensors and of optimizer state, by what they are; its op, what it reads."""

    rows: dict[str, Tensor]
    reads: tuple[object, ...]


class Mutations(RuleBasedStateMachine):
    """An op graph in training. The model to compare with: a dict of rows by name, told of each mutation in words."""

    @initialize(seed=st.integers(0, 2**16), flat=st.booleans())
    def begin(self, seed: int, flat: bool) -> None:
        self.at, self.seed, self.flat = 0, seed, flat
        self.topology, self.frozen = empty(3, 12), frozenset[str]()
        self.start = self.topology
        self.log = [head("a spec", self.start)]
        self.random = torch.Generator().manual_seed(seed)
        self.parameters = {
            NUMBERS: torch.nn.Parameter(torch.zeros(12, 3)),
            READOUT: torch.nn.Parameter(torch.randn(2, 15, generator=self.random)),
        }
        with torch.no_grad():
            self.parameters[READOUT][:, 3:] = 0
        self.statistics = {MEAN: torch.zeros(12), VAR: torch.ones(12)}
        self.build_optimizer()
        self.used: set[str] = set()
        self.grow(4, 0)

    def build_optimizer(self) -> None:
        if self.flat:
            self.step: FlatStep | torch.optim.AdamW = FlatStep(self.parameters, ADAM, {"lr": 0.01})
        else:
            self.step = torch.optim.AdamW(self.parameters.values(), lr=0.01)

    def state(self, name: str) -> dict[str, Tensor]:
        if isinstance(self.step, FlatStep):
            return self.step.state().get(name, {})
        return self.step.state.get(self.parameters[name], {})

    def tensors(self) -> dict[str, tuple[Tensor, growth_rows.Axis]]:
        """All that has an entry per node."""
        found: dict[str, tuple[Tensor, growth_rows.Axis]] = {
            k: (t, "rows") for k, t in self.statistics.items()
        }
        axes: tuple[tuple[str, growth_rows.Axis], ...] = ((NUMBERS, "rows"), (READOUT, "columns"))
        for name, axis in axes:
            found[name] = (self.parameters[name].detach(), axis)
            for key in ("exp_avg", "exp_avg_sq"):
                if key in self.state(name):
                    found[f"{name} {key}"] = (self.state(name)[key], axis)
        return found

    def snapshot(self, topology: Topology) -> dict[str, Node]:
        entries = self.tensors()
        return {
            name: Node(
                {
                    key: (t[row] if axis == "rows" else t[:, topology.inputs + row]).clone()
                    for key, (t, axis) in entries.items()
                },
                self.reads(topology, row),
            )
            for name, row in topology.rows.items()
        }

    def reads(self, topology: Topology, row: int) -> tuple[object, ...]:
        """The op, and its arguments: names of nodes, numbers of inputs."""
        return int(topology.kind[row]), *(
            column if column < topology.inputs else topology.names[column - topology.inputs]
            for column in topology.args[row].tolist()
        )

    def mutated(self, *steps: Mutation) -> Mutated:
        """Apply a batch to the op graph and to all that follows it; what is not in it must not change."""
        made = mutate(self.topology, steps, at=self.at, frozen=self.frozen, limits=LIMITS)
        if made.change.reshapes:
            self.reshape(made)
        growth_rows.numbers(self.parameters[NUMBERS], made.change)
        growth_rows.mix(self.parameters[READOUT], made.change)
        growth_rows.move(self.statistics[MEAN], made.change, "rows", 0.0)
        growth_rows.move(self.statistics[VAR], made.change, "rows", 1.0)
        optimizer = self.step.optimizer if isinstance(self.step, FlatStep) else self.step
        axes: tuple[tuple[str, growth_rows.Axis], ...] = ((NUMBERS, "rows"), (READOUT, "columns"))
        for name, axis in axes:
            growth_rows.move_state(
                self.state(name), made.change, axis, self.parameters[name], optimizer.param_groups[0]
            )
        self.log.append(line(self.at, steps, made.topology))
        self.topology, self.frozen = made.topology, made.frozen
        self.at += 1
        return made

    def reshape(self, made: Mutated) -> None:
        states = {name: self.state(name) for name in self.parameters}
        old, axes = dict(self.parameters), {NUMBERS: "rows", READOUT: "columns"}
        for name, parameter in old.items():
            axis: growth_rows.Axis = axes[name]  # type: ignore[assignment]
            self.parameters[name] = torch.nn.Parameter(
                growth_rows.grown(parameter, made.change, axis).detach().clone()
            )
            if not isinstance(self.step, FlatStep):
                growth_rows.regrow(self.step, parameter, self.parameters[name], made.change, axis)
        if isinstance(self.step, FlatStep):
            group = self.step.optimizer.param_groups[0]
            moved = {
                name: growth_rows.grown_state(
                    states[name],
                    made.change,
                    axes[name],
                    self.parameters[name],
                    group,  # type: ignore[arg-type]
                )
                for name in states
                if states[name]
            }
            self.build_optimizer()
            assert isinstance(self.step, FlatStep)
            group = {k: v for k, v in self.step.optimizer.param_groups[0].items() if k != "params"}
            self.step.unpack(pack_state(moved, [group]))
        for name, fresh in ((MEAN, 0.0), (VAR, 1.0)):
            self.statistics[name] = growth_rows.grown(self.statistics[name], made.change, "rows", fresh)

    def compare(self, before: dict[str, Node], but: str = "", moved: dict[str, str] | None = None) -> None:
        """Every survivor has, under its name, exactly what it had, and reads what it read.

        but: a node whose rows may be others. moved: what is read in place of what, where readers were moved.
        """
        after = self.snapshot(self.topology)
        for name in before.keys() & after.keys():
            old, new = before[name].reads, after[name].reads
            assert new == old or (moved and new == tuple(moved.get(str(read), read) for read in old)), name
            if name == but:
                continue
            for key, value in before[name].rows.items():
                assert torch.equal(after[name].rows[key], value), (name, key)

    def fresh(self, name: str, numbers: list[float]) -> None:
        """A new node: its numbers as said, everything else as at the beginning."""
        for key, value in self.snapshot(self.topology)[name].rows.items():
            wanted = torch.tensor(numbers) if key == NUMBERS else torch.full_like(value, float(key == VAR))
            assert torch.equal(value, wanted), (name, key)

    def pick(self, number: int) -> str:
        return sorted(self.topology.rows)[number % self.topology.count]

    @rule(count=st.integers(1, 4), biased=st.integers(0, 2))
    def grow(self, count: int, biased: int) -> None:
        bias = Bias()
        rng = np.random.default_rng(self.at)
        if biased == 1:
            bias = Bias(scores=rng.uniform(size=self.topology.columns) ** 4)
        elif biased == 2:
            bias = Bias(places=rng.normal(size=(self.topology.columns, 3)), reach=0.5)
        random = generator(self.seed, self.at)
        new = additions(self.topology, count, random, Draw(bias=bias), limits=LIMITS)
        before, shown = self.snapshot(self.topology), self.outputs()
        self.mutated(*new)
        self.compare(before)
        assert torch.equal(self.outputs(), shown)
        for node in new:
            assert node.name not in self.used
            own = [0.0 if isinstance(arg, str) else arg for arg in node.args]
            self.fresh(node.name, own + [0.0] * (3 - len(own)))

    @rule(count=st.integers(1, 3), leaves=st.booleans())
    def prune(self, count: int, leaves: bool) -> None:
        scores = np.random.default_rng(self.at).normal(size=self.topology.capacity)
        count = min(count, self.topology.count - 1)
        chosen = prunes(self.topology, scores, count, leaves=leaves, frozen=self.frozen)
        before, rows = self.snapshot(self.topology), self.topology.rows
        asked = [rows[step.name] for step in chosen]
        gone = set(downstream(self.topology.args, self.topology.inputs, asked))
        assert len(gone) <= count
        self.mutated(*chosen)
        assert set(self.topology.rows) == {name for name, row in rows.items() if row not in gone}
        self.compare(before)

    @rule(number=st.integers(0, 99), share=st.sampled_from([0.0, 0.25, 1.0]), some=st.integers(0, 3))
    def split(self, number: int, share: float, some: int) -> None:
        name, into = self.pick(number), f"n{self.topology.next}"
        row = self.topology.rows[name]
        column = self.topology.inputs + row
        readers = [n for n, r in self.topology.rows.items() if (self.topology.args[r] == column).any()]
        step = Split(name, into, tuple(readers[:some]), share)
        before, rows = self.snapshot(self.topology), self.topology.args[row]
        arity = ARITY[self.topology.kind[row]]
        try:
            self.mutated(step)
        except MutationError as error:
            full = self.topology.count in (LIMITS.nodes, self.topology.capacity)
            assert full if error.reason in ("full", "limit") else NUMBER not in rows[:arity], error
            return
        self.compare(before, name, {name: into})
        for reader, node in self.snapshot(self.topology).items():
            assert (into in node.reads) == (reader in step.readers)
        after, old = self.snapshot(self.topology), before[name].rows
        for key, value in old.items():
            one, two = after[name].rows[key], after[into].rows[key]
            if key == READOUT:
                torch.testing.assert_close(one, value * (1 - share))
                torch.testing.assert_close(two, value * share)
            else:
                assert torch.equal(one, value) and torch.equal(two, value), key

    @rule(first=st.integers(0, 99), second=st.integers(0, 99))
    def merge(self, first: int, second: int) -> None:
        name, gone = self.pick(first), self.pick(second)
        before = self.snapshot(self.topology)
        try:
            self.mutated(Merge(name, gone))
        except MutationError as error:
            assert error.reason in ("same", "cycle", "dead", "frozen", "limit", "empty"), error
            return
        assert gone not in self.topology.rows
        self.compare(before, name, {gone: name})
        weights = self.snapshot(self.topology)[name].rows.pop(READOUT)
        torch.testing.assert_close(weights, before[name].rows[READOUT] + before[gone].rows[READOUT])

    @rule(number=st.integers(0, 99), still=st.booleans())
    def freeze(self, number: int, still: bool) -> None:
        before = self.snapshot(self.topology)
        name = self.pick(number)
        self.mutated(Freeze(name) if still and len(self.frozen) < 3 else Thaw(name))
        self.compare(before)

    @precondition(lambda self: self.topology.capacity < 24)
    @rule(more=st.integers(1, 3))
    def widen(self, more: int) -> None:
        before = self.snapshot(self.topology)
        self.mutated(Widen(self.topology.capacity + more))
        self.compare(before)

    @precondition(lambda self: self.topology.inputs < 8)
    @rule(name=st.integers(0, 99))
    def add_input(self, name: int) -> None:
        before, expected = self.snapshot(self.topology), self.outputs()
        self.mutated(AddInputs(1), Freeze(self.pick(name)))
        self.compare(before)
        assert not self.parameters[READOUT][:, self.topology.inputs - 1].any()
        torch.testing.assert_close(self.outputs(), expected)

    @rule()
    def learn(self) -> None:
        """A step on random gradients of live nodes, so that all state is different."""
        live = torch.from_numpy(self.topology.live)
        inputs = torch.ones(self.topology.inputs, dtype=torch.bool)
        for name, there in ((NUMBERS, live.unsqueeze(1)), (READOUT, torch.cat([inputs, live]))):
            parameter = self.parameters[name]
            parameter.grad = torch.randn(parameter.shape, generator=self.random) * there
        self.step.step()
        for statistic in self.statistics.values():
            statistic[live] = torch.rand(int(live.sum()), generator=self.random) + 0.5

    def outputs(self) -> Tensor:
        random = torch.Generator().manual_seed(0)
        x = torch.rand(4, 8, generator=random)[:, : self.topology.inputs] - 0.5
        program = load(plan(self.topology))
        numbers = self.parameters[NUMBERS].detach()
        mean, var = self.statistics[MEAN], self.statistics[VAR]
        shown, *_ = columns(program, x, numbers, mean, var, "batch", False)
        return shown @ self.parameters[READOUT].detach().T

    @invariant()
    def the_table_is_sound(self) -> None:
        assert not problems(self.topology)
        assert self.topology.count >= 1
        assert self.frozen <= set(self.topology.rows)
        depth = depths(self.topology)
        assert LIMITS.depth is not None and depth.max() <= LIMITS.depth
        # Once more without the module's own checks: a walk from every node over names.
        reached: set[str] = set()
        for row in np.argsort(depth, kind="stable"):
            name = self.topology.names[row]
            if name is None:
                assert depth[row] == 0 and (self.topology.args[row] == NUMBER).all()
                continue
            args = self.topology.args[row, : OP_KINDS[self.topology.kind[row]].arity]
            read = [self.topology.names[c - self.topology.inputs] for c in args if c >= self.topology.inputs]
            assert set(read) <= reached
            assert (args >= 0).any()
            reached.add(name)
        self.used |= reached

    @invariant()
    def free_rows_are_as_new(self) -> None:
        free = torch.from_numpy(~self.topology.live)
        for key, (tensor, axis) in self.tensors().items():
            part = tensor[free] if axis == "rows" else tensor[:, self.topology.inputs :][:, free]
            assert (part == float(key == VAR)).all(), key
        capacity, all_columns = self.topology.capacity, self.topology.columns
        assert self.parameters[NUMBERS].shape == (capacity, 3)
        assert self.parameters[READOUT].shape == (2, all_columns)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        found = replay(self.log, "a spec", self.start)
        assert digest(found.topology) == digest(self.topology) and found.frozen == self.frozen
        assert np.array_equal(found.topology.args, self.topology.args)
        assert found.topology.names == self.topology.names


TestMutations = Mutations.TestCase
TestMutations.settings = settings(
    max_examples=5,
    stateful_step_count=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
