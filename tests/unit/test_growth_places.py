"""Op graphs whose columns have places: what new ops may read, where they lie, and runs that keep it all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2d2c
from r2d2c.formulas import Formula
from r2d2c.growth import Every, Growing, OpGraph
from r2d2c.model import Model
from r2d2c.mutate import Add, AddInputs, Limits, Merge, MutationError, Prune, Split, Widen, mutate
from r2d2c.mutate_checks import problems
from r2d2c.mutation_choice import Bias, Draw, additions, generator
from r2d2c.mutation_log import digest
from r2d2c.op_places import columns_of, fits_any, lengths, place, wired
from r2d2c.opgraph import Topology, depths, empty
from r2d2c.ops.op_graph import Start
from r2d2c.ops.op_graph_rows import first_rows, points_of, topology_of
from r2d2c.places import Placing
from r2d2c.train.growth import op_graphs
from r2d2c.train.growth_choice import choose
from r2d2c.train.growth_log import differences, of_data, to_data
from r2d2c.train.growth_places import points
from r2d2c.train.growth_scores import Seen
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.replay import replay
from tests.unit.runs import StopAt, assert_same_run
from tests.unit.test_growth import Keep, log_of

SPECS = Path(__file__).parents[2] / "specs" / "growth"
Point = tuple[float, float, float]
GRID = [(a - 3.5, b - 3.5, 0.0) for a in range(8) for b in range(8)]
KINDS = ("add", "mul", "sin", "gauss", "multiply_add")
# Formulas, and what they say, written once more; limits are loosened by what f32 cannot tell.
NEAR = 1e-4
WIRES: dict[str, tuple[Formula, Callable[[Point, Point], bool]]] = {
    "next layer": (
        ("and", ("==", "step", 1.0), ("<=", "plane", 1.0)),
        lambda a, b: abs(b[2] - a[2] - 1) < NEAR and math.dist(a[:2], b[:2]) < 1 + NEAR,
    ),
    "ball": (("<", "distance", 2.2), lambda a, b: math.dist(a, b) < 2.2 + NEAR),
    "from the left": (
        ("and", (">=", "dx", 0.0), ("not", (">", "plane", 2.0))),
        lambda a, b: b[0] - a[0] > -NEAR and math.dist(a[:2], b[:2]) < 2 + NEAR,
    ),
    # No op of one column: that one would be right below.
    "far": ((">=", "plane", 2.5), lambda a, b: math.dist(a[:2], b[:2]) > 2.5 - NEAR),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def grown(
    seed: int, *, wire: Formula | None = None, reach: float | None = None, rounds: int = 4, count: int = 25
) -> Topology:
    """An op graph on the grid after some rounds of additions."""
    topology = replace(empty(64, 120), places=np.zeros((120, 3), np.float32))
    for at in range(rounds):
        bias = Bias(places=columns_of(topology, np.array(GRID)), reach=reach, wire=wire)
        found = additions(
            topology, count, generator(seed, at), Draw(KINDS, bias=bias), limits=Limits(depth=4)
        )
        topology = mutate(topology, found, at=at).topology
    return topology


def read(topology: Topology) -> list[tuple[Point, list[Point]]]:
    """The place of every node, and those of the columns that it reads, slowly."""
    assert topology.places is not None
    places: list[Any] = [*GRID, *map(tuple, topology.places.tolist())]
    return [
        (
            places[topology.inputs + row],
            [places[column] for column in topology.args[row].tolist() if column >= 0],
        )
        for row in topology.rows.values()
    ]


# -- where ops lie, and what they may read


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("reach", [None, 1.5])
def test_growth_never_breaks_the_wire(name: str, reach: float | None) -> None:
    wire, may = WIRES[name]
    several = 0
    for seed in range(6):
        topology = grown(seed, wire=wire, reach=reach)
        assert not problems(topology) and topology.count > 40
        assert wired(topology, np.array(GRID), wire).all()
        for node, sources in read(topology):
            assert all(may(source, node) for source in sources)
            several += len(sources) > 1
    assert several > 50
    # The same rules say that ops which were drawn without them break it.
    free = grown(0)
    broken = [not all(may(source, node) for source in sources) for node, sources in read(free)]
    assert 10 < sum(broken) < free.count
    assert (~wired(free, np.array(GRID), wire)).sum() == sum(broken)


def test_an_op_lies_above_the_middle_of_what_it_reads() -> None:
    topology = grown(3)
    for node, sources in read(topology):
        x, y, z = zip(*sources, strict=True)
        expected = sum(x) / len(x), sum(y) / len(y), 1 + max(z)
        assert node == pytest.approx(expected, abs=1e-6)
    # Without places of their own, they are found in the same way.
    assert topology.places is not None
    assert np.array_equal(place(replace(topology, places=None), np.array(GRID)), topology.places)
    assert (topology.places[topology.live, 2] == depths(topology)[topology.live]).all()


def test_what_is_near_is_read_rather() -> None:
    def mean(topology: Topology) -> float:
        return float(lengths(topology, np.array(GRID))[topology.live].mean())

    means = {reach: [mean(grown(seed, reach=reach)) for seed in range(8)] for reach in (None, 3.0, 1.0)}
    assert max(means[1.0]) < min(means[None])
    assert all(one < two < three for one, two, three in zip(means[1.0], means[3.0], means[None], strict=True))
    # The first argument is drawn alike everywhere, the second in proportion to exp(-d² / (2 reach²)).
    bias = Bias(places=columns_of(grown(0, rounds=0), np.array(GRID)), reach=1.0)
    start = replace(empty(64, 4), places=np.zeros((4, 3), np.float32))
    draw = Draw(("add",), 0.0, replace(bias, places=np.array([*GRID, *[(0.0, 0.0, 0.0)] * 4])))
    pairs = [new.args for at in range(4000) for new in additions(start, 1, generator(1, at), draw)]
    away = [math.dist(*(GRID[int(str(arg)[1:])] for arg in args)) for args in pairs]
    ratio = sum(d == 1 for d in away) / sum(abs(d - math.sqrt(2)) < 1e-9 for d in away)
    neighbours, corners = (
        sum(abs(math.dist(a, b) - d) < 1e-9 for a in GRID for b in GRID) for d in (1, math.sqrt(2))
    )
    assert ratio == pytest.approx(neighbours / corners * math.exp(0.5), rel=0.15)


def test_a_score_and_a_wire_work_together() -> None:
    """Columns that may not be read, or have no gradient, are not read for the sake of what is near."""
    topology = grown(0, rounds=0)
    places = columns_of(topology, np.array(GRID))
    scores = np.zeros(topology.columns)
    scores[[0, 1, 9, 63]] = 1.0
    bias = Bias(scores=scores, places=places, reach=1.0, wire=WIRES["next layer"][0])
    found = additions(topology, 40, generator(0, 0), Draw(KINDS, bias=bias))
    reads = [{arg for arg in new.args if isinstance(arg, str)} for new in found]
    assert set().union(*reads) == {"x0", "x1", "x9", "x63"}
    assert all(len(names) == 1 for names in reads if "x63" in names)
    nothing = Bias(places=places, wire=("<", "distance", 0.5))
    assert not additions(topology, 40, generator(0, 0), Draw(KINDS, bias=nothing))
    assert not fits_any(places[:64], 64, ("<", "distance", 0.5))
    assert all(fits_any(places[:64], 64, wire) for wire, _ in WIRES.values())
    with pytest.raises(MutationError, match="shape"):
        additions(topology, 1, generator(0, 0), Draw(KINDS, bias=Bias(places=places[:, :2])))


def test_the_length_of_an_op_is_that_of_its_wires() -> None:
    topology = grown(5)
    found = lengths(topology, np.array(GRID))
    for (node, sources), row in zip(read(topology), topology.rows.values(), strict=True):
        assert found[row] == pytest.approx(sum(math.dist(node, source) for source in sources), rel=1e-6)
    assert not found[~topology.live].any()


def test_a_small_spacing_is_as_exact_as_a_large_one() -> None:
    """f32 has no 0.1: what is exactly at the limit is still within it."""
    set_ = Placing("small", "grid", (8, 8), 0.1)
    here = points_of(set_, 0)
    topology = replace(empty(64, 60), places=np.zeros((60, 3), np.float32))
    wire: Formula = ("<=", "plane", 0.1)
    bias = Bias(places=columns_of(topology, here), wire=wire)
    found = additions(topology, 60, generator(0, 0), Draw(("mul",), 0.0, bias))
    apart = {round(math.dist(*(here[int(str(arg)[1:])] for arg in new.args)), 4) for new in found}
    assert apart == {0.0, 0.1, 0.1414, 0.2}


def test_ops_at_the_start_keep_to_it_too() -> None:
    wire, may = WIRES["next layer"]
    start = Start("g", 90, KINDS, random=80, depth=4, places=Placing("retina", "grid", (8, 8)), wire=wire)
    topology = topology_of(first_rows(start, 64, 3), 64, ())
    assert topology.count == 80 and depths(topology).max() > 1
    assert all(may(source, node) for node, sources in read(topology) for source in sources)
    near = replace(start, wire=None, reach=0.7)
    far = replace(start, wire=None)
    means = [
        lengths(topology_of(first_rows(each, 64, 3), 64, ()), np.array(GRID)).sum() for each in (near, far)
    ]
    assert means[0] < 0.7 * means[1]


# -- mutations


def test_mutations_move_places_with_their_rows() -> None:
    topology = replace(empty(2, 4), places=np.zeros((4, 3), np.float32))
    a, b = Add("n0", "mul", ("x0", 0.5), (1.0, 2.0, 1.0)), Add("n1", "add", ("n0", "x1"), (0.0, 2.5, 2.0))
    both = mutate(topology, [a, b]).topology
    assert both.places is not None and both.places[:3].tolist() == [[1, 2, 1], [0, 2.5, 2], [0, 0, 0]]
    assert topology.places is not None and not topology.places.any()
    after = mutate(both, [Split("n0", "n2", ("n1",)), Widen(6), AddInputs(3)]).topology
    assert after.places is not None and after.places.shape == (6, 3)
    assert after.places.tolist() == [[1, 2, 1], [0, 2.5, 2], [1, 2, 1], *[[0, 0, 0]] * 3]
    pruned = mutate(after, [Prune("n1"), Merge("n0", "n2")]).topology
    assert pruned.places is not None and pruned.places.tolist() == [[1, 2, 1], *[[0, 0, 0]] * 5]
    for wrong in (None, (0.0, 1.0), (0.0, math.nan, 1.0)):
        with pytest.raises(MutationError, match=r"`n3` has (no place|the place)") as caught:
            mutate(pruned, [Add("n3", "sin", ("x0",), wrong)])
        assert caught.value.reason == "place"
    # Elsewhere a place is not kept.
    assert mutate(empty(2, 4), [a]).topology.places is None


def test_a_log_tells_places_apart() -> None:
    topology = grown(2)
    again = of_data(json.loads(json.dumps(to_data(topology))))
    assert digest(again) == digest(topology) and not differences(again, topology)
    assert topology.places is not None and again.places is not None
    assert again.places.dtype == np.float32 and np.array_equal(again.places, topology.places)
    moved = topology.places.copy()
    moved[topology.rows["n3"], 1] += 0.25
    other = replace(topology, places=moved)
    assert digest(other) != digest(topology) != digest(replace(topology, places=None))
    (line,) = differences(topology, other)
    assert line.startswith("`n3` is at (") and "in the checkpoint" in line
    data = to_data(topology)
    data["nodes"][0] = data["nodes"][0][:5]
    with pytest.raises(MutationError, match="does not say how the op graph began"):
        of_data(data)


@pytest.mark.parametrize("wire", [None, ("<=", "plane", 0.6)])
def test_merging_does_not_break_the_wire(wire: Formula | None) -> None:
    """Two ops give the same, and one is read by a third that lies too far from the other."""
    here = np.array([(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 2.0, 0.0), (0.0, 3.0, 0.0)])
    nodes = [
        Add("n0", "tanh", ("x0",), (0.0, 0.0, 1.0)),
        Add("n1", "tanh", ("x3",), (0.0, 3.0, 1.0)),
        Add("n2", "mul", ("n1", "x2"), (0.0, 2.5, 2.0)),
    ]
    topology = mutate(replace(empty(4, 4), places=np.zeros((4, 3), np.float32)), nodes).topology
    columns = np.random.default_rng(0).normal(size=(50, 8))
    columns[:, 3] = columns[:, 0]
    columns[:, 4] = columns[:, 5] = np.tanh(columns[:, 0])
    columns[:, 6], columns[:, 7] = columns[:, 5] * columns[:, 2], 0
    growing = Growing(Every("epochs", 1), merge=4, wire=wire)
    graph = OpGraph("g", 4, 4, ("add",), growing=growing)
    chosen = choose(graph, growing, topology, Seen(columns), [], generator(0, 0), at=1, points=here)
    assert chosen.mutations == ([Merge("n0", "n1")] if wire is None else [])


# -- trainings

SPEC = """\
r2d2c: 1
model: placed_ops
dims: {D: 64, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
places:
  retina: grid(8, 8)
op_graphs:
  pixels:
    ops: [add, sub, mul, gauss, gated]
    capacity: 60
    start: 24
    nodes:
      o0: x[0] * x[9]
      o1: o0 + p
    normalise: batch
    places: retina
    grow:
      every: epochs(1)
      add: 12
      prune: 4
      by: effect - 0.1 * length
      wire: step == 1 and plane <= 1
      depth: 4
tasks:
  classify:
    behavior: |
      logits = linear(pixels(x), C)
    distance: cross_entropy(logits, y)
outputs:
  logits: classify.logits
train:
  data: csv:data.csv?target=y
  epochs: 4
  batch_size: 32
  optimizer: adam(lr=2e-3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 of scikit-learn's digits as a table, and a spec."""
    from sklearn.datasets import load_digits

    made: Path = tmp_path_factory.mktemp("places")
    x, y = load_digits(return_X_y=True)
    lines = [",".join([*(f"p{k}" for k in range(64)), "y"])]
    lines += [
        ",".join([*map(str, (row / 16).tolist()), f"c{label}"])
        for row, label in zip(x[:150], y[:150], strict=True)
    ]
    (made / "data.csv").write_text("\n".join(lines) + "\n")
    (made / "spec.yaml").write_text(SPEC)
    return made


def trained(folder: Path, out: Path, *settings: str, **more: Any) -> Any:
    return r2d2c.train(folder / "spec.yaml", out=out, settings=list(settings), **more)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    trained(folder, folder / "whole")
    return folder / "whole"


def topology_in(run: Path) -> Topology:
    """The table in the buffers of the last checkpoint."""
    model = r2d2c.open_run(run).load("last")
    rows = {
        part: getattr(model.pixels, part).numpy()
        for part in ("kind", "args", "number", "born", "next", "place")
    }
    return topology_of(rows, 64, ("o0", "o1"))


def test_the_log_rebuilds_places_exactly(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = replay(whole)["pixels"]
    table = topology_in(whole)
    assert found.differences == () and found.topology.places is not None and table.places is not None
    assert found.topology.places.tobytes() == table.places.tobytes() and table.places.any()
    assert not table.places[~table.live].any()
    new = [step for line in log_of(whole)[1:] for step in line["do"] if step["do"] == "add"]
    assert len(new) == 36 and all(len(step["place"]) == 3 for step in new)
    for step in new:
        if step["name"] in table.rows:
            assert table.places[table.rows[step["name"]]].tolist() == step["place"]
    entries = found.json()["nodes"]
    assert {entry["name"]: tuple(entry["place"]) for entry in entries} == found.places()
    (one,) = [entry for entry in entries if entry["name"] == "o1"] or [None]
    if one is not None:
        assert one["place"] == [-3.0, -3.0, 2.0]
    from r2d2c.cli.main import main

    assert main(["replay", str(whole)]) == 0
    shown = capsys.readouterr().out
    name, (x, y, z) = next(iter(found.places().items()))
    assert f"  {name} = " in shown and f"at ({x:g}, {y:g}, {z:g})" in shown


def test_a_run_that_goes_on_has_the_same_places(folder: Path, whole: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    with pytest.raises(Interrupted):
        trained(folder, part, callbacks=[StopAt(3, 2)])
    r2d2c.train(resume=part)
    assert_same_run(whole, part)


def test_ops_see_only_the_pixels_within_their_reach(folder: Path, tmp_path: Path) -> None:
    """By the gradient of every op's column, which knows nothing of places."""
    few = [f"op_graphs.pixels.grow.{key}" for key in ("by=effect", "prune=1", "add=8")]
    trained(folder, tmp_path / "run", *few)
    model, table = r2d2c.open_run(tmp_path / "run").load("last"), topology_in(tmp_path / "run")
    assert table.places is not None and table.places[:, 2].max() >= 3
    x = torch.rand(16, 64, requires_grad=True)
    seen = receptive(model, x)
    wide = 0
    for name, row in table.rows.items():
        # What the spec writes is not drawn.
        if name in ("o0", "o1") or depends(
            table, row, {64 + table.rows[o] for o in ("o0", "o1") if o in table.rows}
        ):
            continue
        at = table.places[row]
        pixels = np.flatnonzero(seen[row])
        assert len(pixels)
        far = max(math.dist(GRID[pixel][:2], at[:2].tolist()) for pixel in pixels)
        assert far <= float(at[2]) + NEAR
        wide += len(pixels) > 3
    assert wide > 0


def depends(table: Topology, row: int, on: set[int]) -> bool:
    reads = {column for column in table.args[row].tolist() if column >= 64}
    return 64 + row in on or any(depends(table, column - 64, on) for column in reads)


def receptive(model: Model, x: torch.Tensor) -> np.ndarray[Any, Any]:
    """bool[capacity, 64]: which pixels move an op's column, by the read-out's first output and one column at a time."""
    weight = model.get_parameter("classify.logits.linear.weight")
    found = np.zeros((weight.shape[1] - 64, 64), bool)
    model.eval()
    for row in range(len(found)):
        with torch.no_grad():
            weight.zero_()
            weight[0, 64 + row] = 1
        (slope,) = torch.autograd.grad(model(x=x)["logits"][:, 0].sum(), x)
        found[row] = (slope != 0).any(0).numpy()
    return found


def test_what_goes_is_worth_least_by_its_length_too(folder: Path, tmp_path: Path) -> None:
    keep = Keep()
    trained(folder, tmp_path / "run", "op_graphs.pixels.grow.by=-length", epochs=2, callbacks=[keep])
    began, round_ = log_of(tmp_path / "run")
    topology = of_data(began["began"])
    found = dict(
        zip(topology.rows, (sum(math.dist(n, s) for s in ss) for n, ss in read(topology)), strict=True)
    )
    assert len(round_["worth"]) == 4
    for name, worth in round_["worth"].items():
        assert worth == pytest.approx(-found[name], rel=1e-6)
    leaves = [n for n, row in topology.rows.items() if not (topology.args == 64 + row).any()]
    assert found[next(iter(round_["worth"]))] == pytest.approx(max(found[name] for name in leaves))


def test_there_are_places_only_if_the_spec_says_so() -> None:
    assert Model(r2d2c.loads(SPEC)).get_buffer("pixels.place").shape == (60, 3)
    plain = SPEC.replace("    places: retina\n", "").replace("places:\n  retina: grid(8, 8)\n", "")
    plain = plain.replace("      wire: step == 1 and plane <= 1\n", "").replace(" - 0.1 * length", "")
    without = Model(r2d2c.loads(plain)).state_dict()
    assert "pixels.kind" in without and "pixels.place" not in without and "places" not in plain


def test_places_that_are_learned_are_read_when_a_round_is_made(folder: Path, tmp_path: Path) -> None:
    text = SPEC.replace("grid(8, 8)", "learned(grid(8, 8))").replace("step == 1 and plane <= 1", "plane <= 2")
    text = text.replace(
        "outputs:", 'losses:\n  shift: {value: "mean(square(retina - 1))", weight: 50}\noutputs:'
    )
    (folder / "learned.yaml").write_text(text)
    keep = Keep()
    r2d2c.train(folder / "learned.yaml", out=tmp_path / "run", callbacks=[keep])
    model: Model = keep.trainer.model
    graph = op_graphs(model)["pixels"]
    now = points(model, graph)
    assert now is not None and np.array_equal(now, model.get_parameter("retina.points").detach().numpy())
    assert np.abs(now - np.array(GRID)).max() > 0.01
    # An op that came late lies at the middle of where pixels were then, which is not where they began.
    last = [step for step in log_of(tmp_path / "run")[-1]["do"] if step["do"] == "add"]
    direct = [s for s in last if all(str(a).startswith("x") for a in s["args"] if isinstance(a, str))]
    assert direct
    for step in direct:
        read_ = [GRID[int(arg[1:])] for arg in step["args"] if isinstance(arg, str)]
        assert abs(step["place"][2] - 1) > 1e-3
        assert abs(step["place"][0] - sum(p[0] for p in read_) / len(read_)) > 1e-4
    assert replay(tmp_path / "run")["pixels"].differences == ()


# -- searches, moves to another spec, and files


def assert_placed(began: Topology, table: Topology) -> None:
    """Survivors are where they were; what came lies above the middle of what it reads, as far as that is there."""
    assert began.places is not None and table.places is not None
    both = [name for name in began.rows if name in table.rows]
    assert len(both) > 5
    for name in both:
        assert began.places[began.rows[name]].tolist() == table.places[table.rows[name]].tolist()
    assert np.array_equal(place(table, np.array(GRID)), table.places)


def test_candidates_of_a_search_keep_places(folder: Path, tmp_path: Path) -> None:
    from r2d2c.train.checkpoint import load_checkpoint

    (folder / "search.yaml").write_text(SPEC.replace("epochs: 4", "epochs: 1\n  split: 0.2"))
    found = r2d2c.evolve(folder / "search.yaml", out=tmp_path / "search", population=2, generations=2)
    children = [c for c in found.candidates if c.parent is not None and c.checkpoint]
    assert children
    start = topology_of(first_rows(op_start(), 64, 0), 64, ("o0", "o1"))
    for child in children:
        tensors = load_checkpoint(found.folder / child.checkpoint).model
        parts = ("kind", "args", "number", "born", "next", "place")
        table = topology_of({part: tensors[f"pixels.{part}"].numpy() for part in parts}, 64, ("o0", "o1"))
        new = [step for step in child.mutations.get("pixels", ()) if step["do"] == "add"]
        assert all(len(step["place"]) == 3 for step in new)
        assert_placed(start, table)
        drawn = np.array([name not in ("o0", "o1", None) for name in table.names])
        wire = WIRES["next layer"][0]
        assert wired(table, np.array(GRID), wire)[drawn].all()
        assert replay(found.folder / "candidates" / str(child.id))["pixels"].differences == ()


def op_start() -> Start:
    from r2d2c.graph import walk

    start: Start = next(
        node.attrs["start"] for _, node in walk(r2d2c.loads(SPEC).graph) if node.op == "op_graph"
    )
    return start


def test_a_run_that_moves_on_keeps_places(folder: Path, whole: Path, tmp_path: Path) -> None:
    """To another spec: with more room they are where they were; from a spec without places they are found."""
    (folder / "wider.yaml").write_text(SPEC.replace("capacity: 60", "capacity: 90"))
    began = topology_in(whole)
    r2d2c.train(folder / "wider.yaml", out=tmp_path / "wider", start=whole)
    first = of_data(log_of(tmp_path / "wider")[0]["began"])
    assert first.places is not None and first.places.shape == (90, 3) and began.places is not None
    assert np.array_equal(first.places[:60], began.places) and not first.places[60:].any()
    assert replay(tmp_path / "wider")["pixels"].differences == ()
    plain = SPEC.replace("    places: retina\n", "").replace("places:\n  retina: grid(8, 8)\n", "")
    plain = plain.replace("      wire: step == 1 and plane <= 1\n", "").replace(" - 0.1 * length", "")
    (folder / "plain.yaml").write_text(plain)
    r2d2c.train(folder / "plain.yaml", out=tmp_path / "plain", epochs=2)
    r2d2c.train(folder / "spec.yaml", out=tmp_path / "placed", start=tmp_path / "plain", epochs=2)
    first = of_data(log_of(tmp_path / "placed")[0]["began"])
    assert first.places is not None and first.places[first.live].any(1).all()
    assert np.array_equal(place(first, np.array(GRID)), first.places)
    assert replay(tmp_path / "placed")["pixels"].differences == ()
    r2d2c.train(folder / "plain.yaml", out=tmp_path / "back", start=whole, epochs=1)
    assert of_data(log_of(tmp_path / "back")[0]["began"]).places is None


def test_pictures_get_ops_with_their_places(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from r2d2c.cli.main import main

    for what, at_start in ((whole.parent / "spec.yaml", True), (whole, False)):
        assert main(["graph", str(what), "--as", "json"]) == 0
        text = capsys.readouterr().out
        data = json.loads(text)
        assert main(["graph", str(what), "--as", "json"]) == 0 and capsys.readouterr().out == text
        (entry,) = data["op_graphs"]
        table = topology_in(whole)
        if at_start:
            table = topology_of(first_rows(op_start(), 64, 0), 64, ("o0", "o1"))
        assert (entry["name"], entry["inputs"], entry["capacity"], entry["place"]) == (
            "pixels",
            64,
            60,
            "retina",
        )
        assert [node["name"] for node in entry["nodes"]] == list(table.rows)
        assert table.places is not None
        for node, row in zip(entry["nodes"], table.rows.values(), strict=True):
            assert node["place"] == table.places[row].tolist() and node["round"] == table.born[row]
            columns = [column for column in table.args[row].tolist() if column >= 0]
            names = [f"x{c}" if c < 64 else table.names[c - 64] for c in columns]
            assert [arg for arg in node["args"] if arg is not None] == names
        (retina,) = data["places"]
        assert retina["points"] == [list(point) for point in GRID]
        (x,) = [node for node in data["nodes"] if node["name"] == "x"]
        assert x["place"] == "retina"


def test_files_of_a_model_with_places(whole: Path, tmp_path: Path) -> None:
    """The ONNX file is compared with the model when it is written; the file of Python has the same state."""
    from r2d2c.emit import emit_python

    model = r2d2c.open_run(whole).load("last")
    r2d2c.export(model, tmp_path / "m.onnx")
    model = Model(r2d2c.loads(SPEC))
    scope: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = scope["PlacedOps"]()
    assert torch.equal(other.state_dict()["pixels.place"], model.get_buffer("pixels.place"))
