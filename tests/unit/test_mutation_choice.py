"""Which mutations are made, the scores that say so, and the log that rebuilds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from r2d2c.mutate import (
    Add,
    AddInputs,
    Freeze,
    Limits,
    Merge,
    Mutation,
    MutationError,
    Prune,
    Split,
    Thaw,
    Widen,
    apply,
    mutate,
)
from r2d2c.mutate_checks import build, commutes, problems
from r2d2c.mutation_choice import (
    Bias,
    Draw,
    additions,
    generator,
    prunes,
    score_magnitude,
    score_std,
    score_taylor,
)
from r2d2c.mutation_log import digest, head, line, replay
from r2d2c.mutations import from_json, to_json
from r2d2c.opgraph import Topology, depths, empty
from tests.unit.mutation_oracle import NODES, make


def test_random_additions_come_from_their_seed_and_are_new_alive_and_within_limits():
    topology, _ = build(3, 400, NODES)
    limits = Limits(nodes=300, depth=6)
    first, again, other = (additions(topology, 200, generator(seed, 5), limits=limits) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 200
    grown = mutate(topology, first, limits=limits).topology
    assert not problems(grown)
    full = mutate(grown, additions(grown, 200, generator(1, 6), limits=limits), limits=limits).topology
    assert full.count == 300 and not additions(full, 5, generator(1, 7), limits=limits)
    assert 1 < depths(full).max() <= 6
    plain = [(new.kind, frozenset(new.args) if commutes(new.kind) else new.args) for new in first]
    plain = [entry for entry in plain if all(isinstance(arg, str) for arg in entry[1])]
    assert len(set(plain)) == len(plain) > 20
    own = [arg for new in first for arg in new.args if not isinstance(arg, str)]
    assert own and all(0.5 <= abs(arg) <= 1.5 and float(np.float32(arg)) == arg for arg in own)


def test_only_what_is_new_is_added():
    topology, _ = build(2, 8, [Add("n0", "mul", ("x1", "x0"))])
    draw = Draw(kinds=("mul", "sub"), number=0.0, bias=Bias(usable=np.array([1, 1, *[0] * 8], bool)))
    found = {
        (new.kind, new.args) for at in range(30) for new in additions(topology, 3, generator(0, at), draw)
    }
    expected = {("mul", ("x0", "x0")), ("mul", ("x1", "x1")), ("sub", ("x0", "x1")), ("sub", ("x1", "x0"))}
    assert found == expected


def test_additions_lean_to_scores_and_to_what_is_near():
    topology = empty(100, 50)
    scores = np.zeros(150)
    scores[[7, 30]] = 3e-30, 1e-30
    draw = Draw(kinds=("mul",), number=0.0, bias=Bias(scores=scores))
    read = [
        arg for at in range(300) for new in additions(topology, 1, generator(0, at), draw) for arg in new.args
    ]
    assert set(read) == {"x7", "x30"} and 0.68 < read.count("x7") / len(read) < 0.82
    places = np.random.default_rng(0).uniform(size=(150, 3))
    near = additions(topology, 40, generator(0, 0), Draw(("add",), 0.0, Bias(places=places, reach=0.05)))
    far = additions(topology, 40, generator(0, 0), Draw(("add",), 0.0))

    def distance(new: Add) -> float:
        one, two = (places[int(str(arg)[1:])] for arg in new.args)
        if new.place is not None:
            assert new.place[:2] == pytest.approx(((one + two) / 2)[:2])
            assert new.place[2] == pytest.approx(1 + max(one[2], two[2]))
        return float(np.linalg.norm(one - two))

    assert max(map(distance, near)) < 0.3 < np.mean([distance(new) for new in far])
    wrong = scores.copy()
    wrong[3] = np.nan
    for bad, reason in (
        (wrong, "nan"),
        (-scores, "range"),
        (scores[1:], "shape"),
        (scores + np.inf, "range"),
    ):
        with pytest.raises(MutationError) as caught:
            additions(topology, 1, generator(0, 0), Draw(bias=Bias(scores=bad)))
        assert caught.value.reason == reason
    with pytest.raises(MutationError, match="no op `plus`"):
        additions(topology, 1, generator(0, 0), Draw(kinds=("plus",)))


def scored(topology: Topology, **scores: float) -> np.ndarray:
    found = np.full(topology.capacity, np.nan)  # free rows may hold anything
    for name, row in topology.rows.items():
        found[row] = scores.get(name, 9.0)
    return found


def test_pruning_takes_what_matters_least():
    topology, _ = make()
    low = scored(topology, total=0.0, n0=0.1, wave=2.0, n1=3.0, gate=5.0, side=4.0)
    assert prunes(topology, low, 1) == [Prune("side")]
    # A node becomes a leaf when its readers have gone.
    assert [prune.name for prune in prunes(topology, low, 4)] == ["side", "gate", "wave", "n1"]
    assert [prune.name for prune in prunes(topology, low, 5)][-1] == "n0"
    assert [prune.name for prune in prunes(topology, low, 2, frozen=frozenset({"side"}))] == ["gate", "wave"]
    assert not prunes(topology, low, 2, frozen=frozenset({"side", "gate"}))
    branch = {count: prunes(topology, low, count, leaves=False) for count in (1, 2, 4, 5)}
    assert branch[5] == [Prune("total", dependents=True)]
    assert branch[4] == [Prune("n0", dependents=True)]
    assert branch[2] == [Prune("wave", dependents=True)]
    assert branch[1] == [Prune("side", dependents=True)]
    assert prunes(topology, low, 2, leaves=False, frozen=frozenset({"gate"})) == [
        Prune("side", dependents=True)
    ]
    for steps in branch.values():
        assert not problems(apply(topology, *steps))
    for count in (6, 7):
        with pytest.raises(MutationError) as caught:
            prunes(topology, low, count)
        assert caught.value.reason == "empty"
    with pytest.raises(MutationError, match=r"1 of the prune scores are no numbers .*`wave`") as caught:
        prunes(topology, scored(topology, wave=np.nan), 1)
    assert caught.value.reason == "nan"
    with pytest.raises(MutationError, match="shape"):
        prunes(topology, low[1:], 1)


def test_scores_say_what_a_column_does_to_the_output_and_to_the_loss():
    generator_ = torch.Generator().manual_seed(3)
    shown = torch.randn(50, 6, generator=generator_, dtype=torch.float64)
    readout = torch.randn(1, 6, generator=generator_, dtype=torch.float64)
    effect = [float((shown[:, at] * readout[0, at]).std(unbiased=False)) for at in range(6)]
    assert score_std(shown.numpy(), readout.numpy()) == pytest.approx(effect)
    assert score_magnitude(readout.numpy()) == pytest.approx(readout.abs()[0].tolist())
    wide = np.array([[3.0, 0.0], [4.0, 1.0]])
    assert score_magnitude(wide) == pytest.approx([5.0, 1.0])

    def loss(values: torch.Tensor) -> torch.Tensor:
        return (values @ readout.T).mul(torch.linspace(-1, 2, 50, dtype=torch.float64)[:, None]).mean()

    values = shown.clone().requires_grad_()
    (grads,) = torch.autograd.grad(loss(values), values)
    found = score_taylor(shown.numpy(), grads.numpy())
    for at in range(6):  # the loss is linear, so the first order is all of it
        without = shown.clone()
        without[:, at] = 0
        assert found[at] == pytest.approx(abs(float(loss(without) - loss(shown))), abs=1e-12)


ALL: list[Mutation] = [
    Add("n0", "multiply_add", ("x0", -0.1, "n3"), (0.5, 1.0, -2.0)),
    Prune("n0"),
    Prune("n1", dependents=True),
    Split("n0", "n5", ("n1", "n2"), 0.125),
    Merge("n0", "n1"),
    Freeze("n0"),
    Thaw("n0"),
    AddInputs(2),
    Widen(64),
]


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: type(mutation).__name__)
def test_mutations_survive_json(mutation):
    assert from_json(json.loads(json.dumps(to_json(mutation)))) == mutation


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"do": "fly"},
        {"do": "prune"},
        {"do": "prune", "name": 3},
        {"do": "prune", "name": "n0", "why": "so"},
        {"do": "prune", "name": "n0", "dependents": 1},
        {"do": "add", "name": "n0", "kind": "add", "args": "x0"},
        {"do": "add", "name": "n0", "kind": "add", "args": ["x0", None]},
        {"do": "add", "name": "n0", "kind": "sin", "args": ["x0"], "place": ["x"]},
        {"do": "split", "name": "n0", "into": "n1", "readers": [1]},
        {"do": "split", "name": "n0", "into": "n1", "share": "half"},
        {"do": "widen", "capacity": 2.5},
    ],
)
def test_what_is_no_mutation_is_refused(data):
    with pytest.raises(MutationError) as caught:
        from_json(data)
    assert caught.value.reason == "damaged"


def logged() -> tuple[Topology, list[str], list[Topology]]:
    start, _ = make()
    lines, stages = [head("spec-1", start)], [start]
    batches: list[list[Mutation]] = [
        [Freeze("side"), *additions(start, 3, generator(4, 0))],
        [Split("n0", "n5", readers=("n1",))],
        [Prune("n5", dependents=True), Widen(12)],
    ]
    frozen = frozenset[str]()
    for at, batch in enumerate(batches):
        made = mutate(stages[-1], batch, at=at, frozen=frozen)
        frozen = made.frozen
        stages.append(made.topology)
        lines.append(line(at, batch, made.topology, step=100 * at))
    return start, lines, stages


def test_a_log_rebuilds_the_topology_exactly_at_every_batch():
    start, lines, stages = logged()
    for until, stage in zip((-1, 0, 1, 2), stages, strict=True):
        found = replay(lines, "spec-1", start, until=until)
        assert found.at == until and found.frozen == (frozenset({"side"}) if until >= 0 else frozenset())
        for entry in ("kind", "args", "born"):
            assert np.array_equal(getattr(found.topology, entry), getattr(stage, entry))
        assert (found.topology.names, found.topology.next) == (stage.names, stage.next)
    assert digest(replay(lines, "spec-1", start).topology) == digest(stages[-1])
    assert len({digest(stage) for stage in stages}) == len(stages)


def test_logs_of_other_specs_and_damaged_ones_are_refused():
    start, lines, _ = logged()

    def reason(lines: list[str], fingerprint: str = "spec-1", start: Topology = start) -> tuple[str, str]:
        with pytest.raises(MutationError) as caught:
            replay(lines, fingerprint, start)
        return caught.value.reason, caught.value.message

    assert reason(lines, "spec-2")[0] == "other"
    assert reason(lines, start=build(3, 10, NODES[:-1])[0])[0] == "other"
    assert reason([])[0] == reason(lines[1:])[0] == "damaged"
    assert reason([*lines[:-1], lines[-1][:-5]]) == ("damaged", "line 4 of the log is cut off or no JSON")
    assert reason([lines[0], *lines[2:]])[0] == "damaged"  # a batch is missing
    assert reason([*lines, lines[-1]])[0] == "damaged"
    assert "no node `n5`" in reason([*lines[:2], lines[3]])[1]
    changed = json.loads(lines[1])
    changed["do"][-1]["kind"] = "cos"
    changed["do"][-1]["args"] = ["x1"]
    assert "another op graph" in reason([lines[0], json.dumps(changed), *lines[2:]])[1]
