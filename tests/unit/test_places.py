"""Places: where points are, layers that are wired by predicates on them, what wires cost, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scipy.sparse
import torch
from scipy.spatial.distance import cdist
from torch.nn import functional as F

import r2d2c
from r2d2c.model import Model
from r2d2c.ops import functions
from r2d2c.places import Placing, coordinates, quantities, wired

ROOT = Path(__file__).parents[2]


def model_of(places: str, body: str, outputs: str = "y", losses: str = "", width: int = 16) -> Model:
    """A model of one task on x f32[B, width]; its sections are given as lines."""

    def lines(text: str, indent: int) -> str:
        return "".join(f"{' ' * indent}{line.strip()}\n" for line in text.strip().splitlines())

    text = f"r2d2c: 1\nmodel: placed\ninputs: {{x: 'f32[B, {width}]'}}\nplaces:\n{lines(places, 2)}"
    text += f"tasks:\n  see:\n    behavior: |\n{lines(body, 6)}    distance: mean(y ^ 2)\n"
    text += f"losses:\n{lines(losses, 2)}" if losses else ""
    text += "outputs:\n" + "".join(f"  {name}: see.{name}\n" for name in outputs.split())
    return r2d2c.compile(r2d2c.loads(text, name="placed.yaml"))


def grid(*counts: int, z: float = 0.0, spacing: float = 1.0, name: str = "g") -> np.ndarray[Any, Any]:
    return coordinates(Placing(name, "grid", counts, spacing, (0.0, 0.0, z)), 0)


# -- where points are


def test_a_grid_has_the_order_of_reshape_and_is_centred() -> None:
    points = grid(3, 4, z=2.0, spacing=0.5).reshape(3, 4, 3)
    for i in range(3):
        for j in range(4):
            assert points[i, j].tolist() == [0.5 * (i - 1), 0.5 * (j - 1.5), 2.0]
    assert grid(5).tolist() == [[i - 2, 0, 0] for i in range(5)]
    assert grid(2, 3, 4).shape == (24, 3) and np.allclose(grid(2, 3, 4).mean(0), 0)


def test_points_of_a_ball_are_uniform_in_it() -> None:
    placing = Placing("ball", "ball", (20_000,), 4.0, (1.0, 2.0, 3.0))
    away = np.linalg.norm(coordinates(placing, 0) - [1, 2, 3], axis=1)
    assert away.max() <= 4
    # The volume within a radius grows with its cube.
    shares = [(away < 4 * share ** (1 / 3)).mean() for share in (0.1, 0.5, 0.9)]
    assert shares == pytest.approx([0.1, 0.5, 0.9], abs=0.015)


def test_random_points_are_uniform_in_a_cube() -> None:
    found = coordinates(Placing("dust", "random", (20_000,), 2.0, (0.0, 0.0, 5.0)), 0) - [0, 0, 5]
    assert np.abs(found).max() <= 1
    assert found.var(0) == pytest.approx([1 / 3] * 3, abs=0.01)


def test_points_come_from_the_seed_and_the_name_alone() -> None:
    one = Placing("a", "random", (10,))
    assert (coordinates(one, 3) == coordinates(one, 3)).all()
    assert (coordinates(one, 3) != coordinates(one, 4)).all()
    assert (coordinates(one, 3) != coordinates(Placing("b", "random", (10,)), 3)).all()


def test_the_spec_says_where_points_are() -> None:
    places = (
        "a: grid(4, 4, at=(1, -2, 3))\nb: given((0, 1), (2, 3, 4), at=(10, 0, 0))\nc: ball(7, radius=2, z=1)"
    )
    model = model_of(places, "y = x |> wired(a, c, distance < 99) |> wired(c, b, distance < 99)")
    stored = model.state_dict()
    np.testing.assert_allclose(stored["a.points"], grid(4, 4) + np.array([1, -2, 3]))
    assert stored["b.points"].tolist() == [[10, 1, 0], [12, 3, 4]]
    expected = coordinates(Placing("c", "ball", (7,), 2.0, (0.0, 0.0, 1.0)), model.graph.seed)
    np.testing.assert_allclose(stored["c.points"], expected, rtol=1e-6)


# -- predicates


def test_what_a_predicate_reads() -> None:
    source, target = np.random.default_rng(0).normal(size=(2, 9, 3))
    found = quantities(source, target[:5])
    np.testing.assert_allclose(found["distance"], cdist(target[:5], source), atol=1e-9)
    np.testing.assert_allclose(found["plane"], cdist(target[:5, :2], source[:, :2]), atol=1e-9)
    for axis, name in enumerate(("dx", "dy", "dz")):
        np.testing.assert_allclose(found[name], target[:5, None, axis] - source[None, :, axis], atol=1e-9)
    assert (found["step"] == found["dz"]).all()


@pytest.mark.parametrize("spacing", [0.1, 0.3, 0.7, 1e-4, 3e5])
def test_a_neighbour_at_the_radius_is_one_whatever_the_spacing(spacing: float) -> None:
    # 0.1 * 3 - 0.1 * 2 is not 0.1 in floating point.
    small = wired(("<=", "distance", spacing), grid(9, 9, spacing=spacing), grid(9, 9, spacing=spacing))
    assert (small == wired(("<=", "distance", 1.0), grid(9, 9), grid(9, 9))).all()


def test_the_next_layer_within_one_in_the_plane() -> None:
    model = model_of(
        "a: grid(2, 2, 4)\nb: grid(2, 2, 4)", "y = x |> wired(a, b, step == 1 and plane <= 1, bias=false)"
    )
    expected = np.zeros((16, 16), bool)
    for target in range(16):
        for source in range(16):
            (i, j, k), (p, q, r) = (np.unravel_index(number, (2, 2, 4)) for number in (target, source))
            expected[target, source] = k - r == 1 and (i - p) ** 2 + (j - q) ** 2 <= 1
    assert (model.state_dict()["see.y.wired.mask"].numpy() == expected).all()


FORMULAS = [
    "distance < 1.5",
    "distance <= 1 and not step != 0 or dx * dy > 1",
    "(distance < 2) * (abs(dz) < 1)",
    "(distance < 1) + (plane < 2) >= 1",
    "max(abs(dx), abs(dy)) < 1.2 and min(dx, 0.5) > -1",
    "exp(-square(distance)) > 0.2 or sqrt(plane) < 0.5",
    "tanh(dx) - 1 / (1 + distance ^ 2) < 2 * -0.1",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_predicate_is_the_same_before_and_while_the_model_runs(formula: str, tmp_path: Path) -> None:
    places = "a: random(16, size=4)\nb: ball(9, radius=3)\nc: learned(random(16, size=4))"
    fixed = model_of(places, f"y = neighbours(a, b, {formula}) * 1.0 + 0 * sum(x)")
    body = f"y = neighbours(a * 1.0, b, {formula}) * 1.0 + 0 * sum(x)\nl = wired(x, c, b, {formula})"
    run = model_of(places, body, "y l")
    x = torch.randn(2, 16)
    expected = fixed(x=x)["y"]
    assert 0 < expected.mean() < 1
    assert torch.equal(run(x=x)["y"], expected)
    # The learned set is another one: the same, by name and seed.
    with torch.no_grad():
        run.get_parameter("c.points").copy_(fixed.state_dict()["a.points"])
    weight, bias = run.get_parameter("see.l.wired.weight"), run.get_parameter("see.l.wired.bias")
    torch.testing.assert_close(run(x=x)["l"], F.linear(x, weight * expected, bias))
    r2d2c.export(run, tmp_path / "run.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx")
    y, wide = session.run(["y", "l"], {"x": x.numpy()})
    assert (y == expected.numpy()).all()
    np.testing.assert_allclose(wide, run(x=x)["l"].detach().numpy(), atol=1e-5)


# -- wired layers


def test_local_receptive_fields_are_the_sparse_matrix_they_stand_for() -> None:
    model = model_of("a: grid(4, 4)\nb: random(11, size=4)", "y = wired(x, a, b, distance < 2.1)").double()
    stored = model.state_dict()
    near = cdist(stored["b.points"], stored["a.points"]) < 2.1
    assert 0 < near.sum() < near.size / 2
    weight, bias = model.get_parameter("see.y.wired.weight"), model.get_parameter("see.y.wired.bias")
    assert (weight.detach().numpy()[near] != 0).all() and (weight.detach().numpy()[~near] == 0).all()
    rows, columns = near.nonzero()
    sparse = scipy.sparse.csr_array((weight.detach().numpy()[rows, columns], (rows, columns)), near.shape)
    x = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(7, 11, dtype=torch.float64)
    y = model(x=x)["y"]
    np.testing.assert_allclose(
        y.detach(), (sparse @ x.detach().numpy().T).T + bias.detach().numpy(), atol=1e-12
    )
    (y * cotangent).sum().backward()
    np.testing.assert_allclose(x.grad, (sparse.T @ cotangent.numpy().T).T, atol=1e-12)
    found = torch.autograd.grad((model(x=x)["y"] * cotangent).sum(), [weight, bias])
    expected = np.where(near, cotangent.numpy().T @ x.detach().numpy(), 0.0)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    np.testing.assert_allclose(found[1], cotangent.sum(0), atol=1e-12)


LARGE = "a: grid(16, 16)\nb: grid(16, 16, z=1)\nc: grid(16, 16, at=(0.5, 0, 2), spacing=0.9)"
LARGE_BODY = """
h = x |> wired(a, b, plane < 1.5, bias=false) |> tanh
y = reshape(h, (B, 1, 256)) |> wired(b, c, distance < 1.7) |> reshape((B, 256))
"""


def by_masks(model: Model, x: torch.Tensor) -> torch.Tensor:
    """The model of `LARGE_BODY` with masked products."""
    h, y = (model.get_submodule(f"see.{name}.wired") for name in "hy")
    x = torch.tanh(F.linear(x, h.weight * h.mask))
    return F.linear(x, y.weight * y.mask, y.bias)


def test_a_layer_with_few_wires_computes_those_alone() -> None:
    model = model_of(LARGE, LARGE_BODY, width=256).double()
    stored = model.state_dict()
    for name, mask in ((n, t) for n, t in stored.items() if n.endswith(".mask")):
        reads = stored[name.replace("mask", "reads")]
        assert reads.shape == (256, int(mask.sum(1).max())) and mask.sum(1).min() < mask.sum(1).max() <= 32
        for row, places in zip(mask, reads, strict=True):
            assert set(row.nonzero()[:, 0].tolist()) == {int(k) for k in places if row[k]}
            assert len(set(places.tolist())) == len(places)
    x = torch.randn(3, 256, dtype=torch.float64, requires_grad=True)
    cotangent, parameters = torch.randn(3, 256, dtype=torch.float64), [x, *model.parameters()]
    found = torch.autograd.grad((model(x=x)["y"] * cotangent).sum(), parameters)
    expected = torch.autograd.grad((by_masks(model, x) * cotangent).sum(), parameters)
    torch.testing.assert_close(model(x=x)["y"], by_masks(model, x), rtol=0, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    called = {node.target for node in model.graphs["inference"].graph.nodes}
    assert functions.wired in called and F.linear not in called


def test_a_neighbourhood_in_a_grid_is_a_convolution() -> None:
    places = "a: grid(5, 6)\nb: grid(5, 6, z=1)"
    model = model_of(places, "y = wired(x, a, b, abs(dx) <= 1 and abs(dy) <= 1)", width=30)
    kernel = torch.randn(3, 3)
    with torch.no_grad():
        weight = model.get_parameter("see.y.wired.weight")
        for target in range(30):
            for source in range(30):
                i, j = source // 6 - target // 6, source % 6 - target % 6
                # Elsewhere anything: it is not wired.
                weight[target, source] = kernel[i + 1, j + 1] if max(abs(i), abs(j)) <= 1 else torch.nan
        model.get_parameter("see.y.wired.bias").zero_()
    x = torch.randn(4, 30)
    expected = F.conv2d(x.view(4, 1, 5, 6), kernel[None, None], padding=1).flatten(1)
    torch.testing.assert_close(model(x=x)["y"], expected)


def test_first_weights_are_as_large_as_the_wires_of_a_point_allow() -> None:
    model = model_of("a: grid(40, 40)\nb: grid(40, 40, z=1)", "y = wired(x, a, b, plane <= 3)", width=1600)
    weight, mask = model.get_parameter("see.y.wired.weight"), model.state_dict()["see.y.wired.mask"]
    count = mask.sum(1)
    assert count.min() < count.max() / 2
    bound = (1 / count.sqrt()).unsqueeze(1)
    assert (weight.abs() <= bound * (1 + 1e-6)).all()
    spread = (weight / bound)[mask]
    assert float(spread.detach().std()) == pytest.approx(1 / np.sqrt(3), rel=0.02)
    assert (model.get_parameter("see.y.wired.bias").abs() <= bound[:, 0] * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("kaiming_normal", lambda to, out: 2 / to),
        ("xavier", lambda to, out: 2 / (to + out)),
        ("normal(0.1)", lambda to, out: 0.01 + 0 * (to + out)),
    ],
)
def test_an_initialiser_counts_wires(init: str, variance: Callable[[Any, Any], Any]) -> None:
    places, line = "a: grid(40, 40)\nb: grid(40, 40, z=1)", "y = wired(x, a, b, plane <= 3, init="
    model = model_of(places, f"{line}{init})", width=1600)
    weight, mask = model.get_parameter("see.y.wired.weight").detach(), model.state_dict()["see.y.wired.mask"]
    assert (weight[~mask] == 0).all()
    expected = variance(mask.sum(1, keepdim=True), mask.sum(0, keepdim=True)).expand(mask.shape)
    assert float((weight / expected.sqrt())[mask].std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.1),
    ],
)
def test_what_is_not_wired_stays_zero(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    model = model_of("a: grid(4, 4)\nb: grid(4, 4, z=1)", "y = wired(x, a, b, plane < 1.5) + 1")
    weight, mask = model.get_parameter("see.y.wired.weight"), model.state_dict()["see.y.wired.mask"]
    before, stepper = weight.detach().clone(), optimizer(model.parameters())
    for _ in range(5):
        stepper.zero_grad()
        model.learn(x=torch.randn(8, 16))
        assert weight.grad is not None and (weight.grad[~mask] == 0).all() and (weight.grad[mask] != 0).all()
        stepper.step()
    assert (weight[~mask] == 0).all() and (weight[mask] != before[mask]).all()


def test_layers_that_are_wired_alike_share_a_mask() -> None:
    body = "h = wired(x, a, b, distance < 2)\ny = h + wired(tanh(x), a, b, distance < 2) + wired(x, a, b, plane < 2)"
    masks = [
        n for n in model_of("a: grid(4, 4)\nb: grid(4, 4, z=1)", body).state_dict() if n.endswith("mask")
    ]
    assert masks == ["see.h.wired.mask", "see.y.wired_2.mask"]


def test_a_block_takes_places_and_a_reach() -> None:
    text = """
r2d2c: 1
dims: {R: 2}
inputs: {x: "f32[B, 16]"}
places: {a: "grid(4, 4)", b: "grid(4, 4, z=1)"}
blocks:
  near(x, from, to, reach):
    body: return x |> wired(from, to, where=distance < reach / R) |> relu
tasks:
  see: {behavior: "y = x |> near(a, b, 3) |> near(b, a, 2 * R)"}
outputs: {y: see.y}
"""
    found = r2d2c.compile(r2d2c.loads(text)).state_dict()
    masks = [found[name].numpy() for name in found if name.endswith("mask")]
    way = cdist(grid(4, 4, z=1), grid(4, 4))
    assert [mask.tolist() for mask in masks] == [(way < 1.5).tolist(), (way < 2).tolist()]


@pytest.mark.parametrize("learned", [False, True])
def test_steps_of_a_loop_with_own_weights_have_one_set_of_wires(learned: bool) -> None:
    places = f"learned({'grid(4, 4, z=1)'})" if learned else "grid(4, 4, z=1)"
    text = f"""
r2d2c: 1
inputs: {{x: "f32[B, 16]"}}
places: {{a: "grid(4, 4)", b: "{places}"}}
loops:
  deep(v):
    repeat: 3
    parameters: per_step
    carry: {{h: "f32[B, 16] = v"}}
    body: h = tanh(wired(h, a, b, distance < 1.5))
tasks:
  see: {{behavior: "y = deep(x).h", distance: mean(y ^ 2)}}
outputs: {{y: see.y}}
"""
    model = r2d2c.compile(r2d2c.loads(text))
    stored = model.state_dict()
    near = torch.tensor(cdist(grid(4, 4, z=1), grid(4, 4)) < 1.5)
    (weight,) = (v for n, v in stored.items() if n.endswith("weight"))
    (bias,) = (v for n, v in stored.items() if n.endswith("bias"))
    assert weight.shape == (3, 16, 16) and (weight[:, ~near] == 0).all() and (weight[:, near] != 0).all()
    assert stored["b.points"].shape == (16, 3)
    h = x = torch.randn(2, 16)
    for step in range(3):
        h = torch.tanh(F.linear(h, weight[step], bias[step]))
    torch.testing.assert_close(model(x=x)["y"], h)


def test_a_hypernet_makes_the_weights_of_wires() -> None:
    text = """
r2d2c: 1
inputs: {x: "f32[B, 16]", c: "f32[B, 3]"}
places: {a: "grid(4, 4)", b: "grid(4, 4, z=1)"}
blocks:
  near(x): {body: "return wired(x, a, b, distance < 1.5)"}
hypernets:
  net: {makes: near, hidden: 4}
tasks:
  see: {behavior: "y = net(x, from=c)", distance: mean(y ^ 2)}
outputs: {y: see.y}
"""
    model = r2d2c.compile(r2d2c.loads(text)).double()
    near = torch.tensor(cdist(grid(4, 4, z=1), grid(4, 4)) < 1.5)
    x, c = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    y = torch.func.vmap(torch.func.jacrev(lambda x, c: model(x=x[None], c=c[None])["y"][0]))(x, c)
    assert (y[:, ~near] == 0).all() and (y[:, near] != 0).all()
    assert (y[0] != y[1])[near].all()  # every sample has its own


# -- what wires cost

COST = "short: {value: 'wiring_cost(see.y.wired.weight, a, b)', weight: 0.5}"


def test_the_cost_of_wires_by_hand() -> None:
    model = model_of(
        "a: grid(4, 4)\nb: learned(ball(9, radius=2))", "y = wired(x, a, b, distance < 3)", losses=COST
    )
    model = model.double()
    weight, points = model.get_parameter("see.y.wired.weight"), model.get_parameter("b.points")
    torch.nn.init.normal_(weight)
    with torch.no_grad():
        points[0] = model.state_dict()["a.points"][5]  # at one place: the distance has no slope there
    x = torch.zeros(1, 16, dtype=torch.float64)

    def cost() -> float:
        way = cdist(points.detach().numpy(), model.state_dict()["a.points"].numpy())
        return float((np.abs(weight.detach().numpy()) * way).sum())

    assert float(model.losses(x=x)["short"]) == pytest.approx(cost(), rel=1e-12)
    torch.nn.init.zeros_(model.get_parameter("see.y.wired.bias"))
    model.learn(x=x)
    for parameter, entries in ((weight, [(0, 5), (3, 4), (8, 15)]), (points, [(1, 0), (4, 1), (8, 2)])):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        for entry in entries:
            with torch.no_grad():
                values = []
                for way in (1e-6, -2e-6):
                    parameter[entry] += way
                    values.append(cost())
                parameter[entry] += 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert float(parameter.grad[entry]) == pytest.approx(0.5 * slope, rel=1e-5, abs=1e-8)


def test_a_cost_of_some_pairs() -> None:
    cost = "short: {value: 'wiring_cost(see.y.wired.weight, a, b, plane >= 1)'}"
    model = model_of("a: grid(4, 4)\nb: grid(4, 4, z=1)", "y = wired(x, a, b, distance < 2)", losses=cost)
    weight = model.get_parameter("see.y.wired.weight").detach().abs().double().numpy()
    ways, planes = cdist(grid(4, 4, z=1), grid(4, 4)), cdist(grid(4, 4)[:, :2], grid(4, 4)[:, :2])
    expected = (weight * ways)[planes >= 1].sum()
    assert float(model.losses(x=torch.zeros(1, 16))["short"]) == pytest.approx(expected, rel=1e-6)


def test_learned_places_move_and_take_their_wires_with_them() -> None:
    places = "a: grid(4, 4)\nb: learned(random(12, size=5))"
    model = model_of(places, "y = wired(x, a, b, distance < 2.5)", losses=COST)
    points, weight = model.get_parameter("b.points"), model.get_parameter("see.y.wired.weight")
    first, fixed = points.detach().clone(), model.state_dict()["a.points"]
    near = torch.tensor(cdist(first, fixed) < 2.5)
    assert (weight[~near] == 0).all() and (weight[near] != 0).all()
    stepper, costs = torch.optim.SGD(model.parameters(), 0.05), []
    for _ in range(40):
        stepper.zero_grad()
        costs.append(float(model.learn(x=torch.randn(8, 16)).losses["short"]))
        assert weight.grad is not None
        stepper.step()
    assert costs[-1] < 0.5 * costs[0]
    assert (points - first).norm(dim=1).max() > 0.1
    after = torch.tensor(cdist(points.detach(), fixed) < 2.5)
    assert not torch.equal(near, after)
    x = torch.randn(3, 16)
    expected = F.linear(x, weight * after, model.get_parameter("see.y.wired.bias"))
    torch.testing.assert_close(model(x=x)["y"], expected)


def test_a_predicate_has_no_gradient() -> None:
    """Only the cost moves points: with weight 0 in effect, nothing does."""
    model = model_of("a: grid(4, 4)\nb: learned(grid(4, 4, z=1))", "y = wired(x, a, b, distance < 2.5)")
    model.learn(x=torch.randn(8, 16))
    grad = model.get_parameter("b.points").grad
    assert grad is None or (grad == 0).all()
