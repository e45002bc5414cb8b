"""Op graphs in the language: against hand-written PyTorch, in several tasks and under credit rules."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.lower.opgraph_call import op_graph_layer
from r2d2c.mutate import mutate
from r2d2c.mutations import Add, Prune
from r2d2c.opgraph import KINDS, OP_KINDS
from r2d2c.ops.op_graph import TABLE, Start, Written
from r2d2c.ops.op_graph_rows import first_rows, rows_of, topology_of
from r2d2c.passes.inline import flatten
from r2d2c.verify.op_graphs import find_readers
from tests.unit.op_graph_oracle import (
    HEAD,
    SHOWN,
    TASK,
    TORCH,
    TWO,
    WRITTEN,
    batch,
    by_hand,
    checked,
    model_of,
    random,
    start_of,
)

# -- values and gradients


def test_written_ops_are_what_they_say() -> None:
    model = model_of(WRITTEN + SHOWN)
    x = batch()["x"]
    product = x[:, 0] * x[:, 1]
    gate = x[:, 3] * torch.sigmoid(product + 0.5)
    wanted = {
        "last": torch.exp(-((product - x[:, 2]) ** 2)),
        "product": product,
        "shifted": product + 0.5,
        "gate": gate,
    }
    found = model(x=x)["columns"]
    assert found.shape == (7, 10)
    torch.testing.assert_close(found[:, :4], x, rtol=0, atol=0)
    names = start_of(model).names
    for row, number in enumerate(model.layer.number.tolist()):
        value = torch.zeros(7) if number < 0 else wanted.pop(names[number])
        torch.testing.assert_close(found[:, 4 + row], value)
    assert not wanted


@pytest.mark.parametrize("normalise", ["none", "batch"])
def test_a_learning_pass_is_that_of_one_op_at_a_time(normalise: str) -> None:
    model = model_of(random(normalise=normalise) + SHOWN).double()
    given = batch(dtype=torch.float64)
    before = copy.deepcopy(model)
    if normalise == "batch":  # after a pass the statistics are not those they began with
        model.learn(**batch(seed=1, dtype=torch.float64))
        model.zero_grad()
        before = copy.deepcopy(model)
    step = model.learn(**given)
    columns = by_hand(before, "layer", given["x"], training=True)
    out = F.linear(columns, before.fit.out.linear.weight, before.fit.out.linear.bias)
    loss = F.mse_loss(out, given["y"])
    loss.backward()
    torch.testing.assert_close(step.outputs["columns"], columns.detach())
    torch.testing.assert_close(step.losses["fit"], loss.detach())
    for (name, mine), theirs in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    assert before.layer.numbers.grad.abs().sum() > 0
    torch.testing.assert_close(model(x=given["x"])["columns"], by_hand(model, "layer", given["x"]))


def test_running_statistics_are_those_of_batch_norm() -> None:
    model = model_of(random(normalise="batch") + TASK).double()
    given = batch(32, dtype=torch.float64)
    values = by_hand(model, "layer", given["x"], training=True)
    model.learn(**given)
    live = model.layer.kind >= 0
    # The first level's ops read inputs and numbers alone: what is normalised there is known by hand.
    first = live & (model.layer.args < 4).all(1)
    assert first.sum() > 1
    part = copy.deepcopy(model.layer)
    for row in first.nonzero().flatten().tolist():
        kind = OP_KINDS[part.kind[row]]
        reads = part.args[row].tolist()[: kind.arity]
        raw = TORCH[kind.name](
            *(part.numbers[row, k].expand(32) if p < 0 else given["x"][:, p] for k, p in enumerate(reads))
        )
        torch.testing.assert_close(part.mean[row], 0.1 * raw.mean().detach())
        torch.testing.assert_close(part.variance[row], 0.9 + 0.1 * raw.var().detach())
    assert torch.equal(part.mean[~live], torch.zeros(int((~live).sum()), dtype=torch.float64))
    assert values.isfinite().all()


@pytest.mark.parametrize("normalise", ["none", "batch", "layer"])
def test_one_sample_alone_gives_what_it_gives_among_others(normalise: str) -> None:
    model = model_of(random(normalise=normalise) + SHOWN)
    for seed in range(3):
        model.learn(**batch(seed=seed))
    x = batch(9, seed=5)["x"]
    whole = model(x=x)["columns"]
    for row in range(9):
        assert torch.equal(model(x=x[row : row + 1])["columns"][0], whole[row])


def test_more_axes_than_one_are_samples() -> None:
    text = (random() + SHOWN).replace("  out: fit.out\n", "")
    model = r2d2c.compile(
        r2d2c.loads(
            (HEAD.lstrip() + text.lstrip("\n"))
            .replace("f32[B, 4]", "f32[B, 3, 4]")
            .replace("f32[B, 2]", "f32[B, 3, 2]")
        )
    )
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(model(x=x)["columns"].flatten(0, 1), by_hand(model, "layer", x.flatten(0, 1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = model_of(random(normalise="batch") + TASK).to(dtype)
    given = batch(dtype=dtype)
    assert model.learn(**given).losses["fit"].isfinite()
    assert model(x=given["x"])["out"].dtype == dtype
    assert model.layer.kind.dtype == torch.int64


# -- normalised over the ops


def over_ops(model: Any, x: torch.Tensor) -> torch.Tensor:
    """The columns, by hand: the raw values, then layer_norm over those of ops."""
    raw = by_hand(model, "layer", x)
    live = [x.shape[1] + row for row, kind in enumerate(model.layer.kind.tolist()) if kind >= 0]
    raw[:, live] = F.layer_norm(raw[:, live], (len(live),))
    return raw


def test_normalised_over_the_ops_is_layer_norm_of_the_columns_of_ops() -> None:
    model = model_of(random(normalise="layer") + SHOWN).double()
    given = batch(dtype=torch.float64)
    assert not hasattr(model.layer, "mean")
    before = copy.deepcopy(model)
    step = model.learn(**given)
    columns = over_ops(before, given["x"])
    free = 4 + (model.layer.kind < 0).nonzero().flatten()
    assert len(free) == 8 and (step.outputs["columns"][:, free] == 0).all()
    out = F.linear(columns, before.fit.out.linear.weight, before.fit.out.linear.bias)
    loss = F.mse_loss(out, given["y"])
    loss.backward()
    torch.testing.assert_close(step.outputs["columns"], columns.detach())
    torch.testing.assert_close(step.losses["fit"], loss.detach())
    for (name, mine), theirs in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    assert before.layer.numbers.grad.abs().sum() > 0
    values = np.delete(columns.detach().numpy(), [*range(4), *free.tolist()], axis=1)
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-12)
    raw = np.delete(
        by_hand(before, "layer", given["x"]).detach().numpy(), [*range(4), *free.tolist()], axis=1
    )
    by_numpy = (raw - raw.mean(1, keepdims=True)) / np.sqrt(raw.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(values, by_numpy, atol=1e-10)


def test_gradients_of_what_is_normalised_over_the_ops_against_finite_differences() -> None:
    model = model_of(random(normalise="layer") + TASK).double()
    part = model.layer
    x, numbers = batch(3, dtype=torch.float64)["x"].requires_grad_(), part.numbers.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, n: op_graph_layer(x, n, part.kind, part.args), (x, numbers))


def test_op_graphs_without_ops_are_as_they_are_with_any_normalisation() -> None:
    x = batch()["x"]
    kind, args = torch.full((3,), -1), torch.full((3, 3), -1)
    found = op_graph_layer(x, torch.zeros(3, 3), kind, args)
    assert torch.equal(found, torch.cat([x, torch.zeros(7, 3)], 1))


def test_in_a_loop_and_in_a_trace_what_is_normalised_over_the_ops() -> None:
    loop = "loops:\n  think(data):\n    repeat: 3\n    carry:\n      z: f32[B, 4] = zeros\n"
    loop += "    body: |\n      columns = layer(z + data)\n      z = tanh(linear(columns, 4))\n"
    model = model_of(
        random(normalise="layer")
        + loop
        + TASK.replace("columns = layer(x)", "h = think(x)").replace("columns, 2", "h, 2")
    )
    x = batch()["x"]
    z = torch.zeros(7, 4)
    weights = [p for name, p in model.named_parameters() if name.startswith("think")]
    for _ in range(3):
        columns = over_ops(model, z + x)
        z = torch.tanh(F.linear(columns, *weights))
    torch.testing.assert_close(model.trace(**batch()).values["layer@3"], columns.detach())
    torch.testing.assert_close(model(x=x)["out"], F.linear(z, *model.fit.out.linear.parameters()))


# -- several, with credit


@pytest.mark.parametrize("credit", ["backprop", "local", "direct"])
def test_two_stacked_op_graphs_learn_by_any_credit(credit: str) -> None:
    model = model_of(random() + random("second", "batch") + TWO.replace("CREDIT", credit))
    assert not torch.equal(model.layer.kind, model.second.kind)
    given = batch()
    losses = [model.learn(**given).losses]
    for _ in range(60):
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.02 * p.grad.clamp(-1, 1)
        model.zero_grad()
        losses.append(model.learn(**given).losses)
    assert losses[-1]["above"] < 0.9 * losses[0]["above"]
    for part in (model.layer, model.second):
        assert part.numbers.grad.abs().sum() > 0


@pytest.mark.parametrize("credit", ["backprop", "local"])
def test_what_comes_back_through_a_link_is_what_its_credit_says(credit: str) -> None:
    model = model_of(random() + random("second") + TWO.replace("CREDIT", credit)).double()
    given = batch(dtype=torch.float64)
    oracle = copy.deepcopy(model)
    model.learn(**given)
    weights = dict(oracle.named_parameters())

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    layers = [name.removesuffix(".weight") for name in weights if name.endswith("weight")]
    below, own, above = (
        next(n for n in layers if re.search(p, n)) for p in (r"^below\.h", r"^below\.l", "^above")
    )
    h = torch.tanh(linear(below, by_hand(oracle, "layer", given["x"])))
    seen = h if credit == "backprop" else h.detach()
    loss = F.mse_loss(linear(own, h), given["y"])
    loss = loss + F.mse_loss(linear(above, by_hand(oracle, "second", seen)), given["y"])
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, msg=name)


def test_in_a_block_a_representative_and_a_loop() -> None:
    block = "blocks:\n  wide(v): return linear(layer(v), 3)\n"
    in_block = TASK.replace("columns = layer(x)", "columns = tanh(wide(x))")
    assert model_of(random() + block + in_block).learn(**batch()).losses["fit"].isfinite()
    loop = """
loops:
  think(data):
    repeat: 3
    carry:
      z: f32[B, 4] = zeros
    body: |
      z = tanh(linear(layer(z + data), 4))
"""
    in_loop = TASK.replace("columns = layer(x)", "columns = think(x)")
    model = model_of(random() + loop + in_loop).double()
    given = batch(dtype=torch.float64)
    oracle = copy.deepcopy(model)
    step = model.learn(**given)
    weights = dict(oracle.named_parameters())
    inner = next(name for name in weights if name.startswith("think") and name.endswith("weight"))
    z = torch.zeros(7, 4, dtype=torch.float64)
    for _ in range(3):
        columns = by_hand(oracle, "layer", z + given["x"])
        z = torch.tanh(F.linear(columns, weights[inner], weights[inner.replace("weight", "bias")]))
    out = F.linear(z, oracle.fit.out.linear.weight, oracle.fit.out.linear.bias)
    loss = F.mse_loss(out, given["y"])
    loss.backward()
    torch.testing.assert_close(step.losses["fit"], loss.detach())
    torch.testing.assert_close(model.layer.numbers.grad, oracle.layer.numbers.grad)


# -- the table in the model's buffers


def test_the_same_seed_gives_the_same_ops_and_another_seed_others() -> None:
    first, again, other = (model_of(random() + TASK, seed=seed) for seed in (3, 3, 4))
    for part in (*TABLE, "numbers"):
        assert torch.equal(getattr(first.layer, part), getattr(again.layer, part))
    assert not torch.equal(first.layer.args, other.layer.args)


def test_copies_and_saved_states_have_the_ops() -> None:
    given = batch()
    model, other = (model_of(random(normalise="batch") + SHOWN, seed=seed) for seed in (1, 2))
    model.learn(**given)
    wanted = model(x=given["x"])["columns"]
    assert not torch.equal(other(x=given["x"])["columns"], wanted)
    other.load_state_dict(model.state_dict())
    for each in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each(x=given["x"])["columns"], wanted)


def test_a_table_that_changes_is_computed_as_it_is_then() -> None:
    model = model_of(WRITTEN + SHOWN)
    x = batch()["x"]
    before = model(x=x)["columns"]
    start, part = start_of(model), model.layer
    rows = {name: getattr(part, name).numpy() for name in TABLE}
    topology = topology_of(rows, 4, start.names)
    done = mutate(topology, [Prune("gate"), Add("n4", "relu", ("product",)), Add("n5", "add", ("n4", "x3"))])
    for name, array in rows_of(done.topology, start.names).items():
        getattr(part, name).copy_(torch.from_numpy(array))
    after = model(x=x)["columns"]
    names = done.topology.rows
    product = x[:, 0] * x[:, 1]
    torch.testing.assert_close(after[:, 4 + names["n5"]], torch.relu(product) + x[:, 3])
    for name in ("product", "last", "shifted"):
        assert torch.equal(after[:, 4 + names[name]], before[:, 4 + names[name]])
    kept = {4 + row for row in names.values()}
    assert all(torch.equal(after[:, k], torch.zeros(7)) for k in range(4, 10) if k not in kept)
    model.learn(**batch())
    assert model.layer.numbers.grad is not None


def test_models_at_one_address_have_plans_of_their_own() -> None:
    x = batch()["x"]
    for seed in range(6):  # each is gone before the next one comes
        model = model_of(random() + SHOWN, seed=seed)
        torch.testing.assert_close(model(x=x)["columns"], by_hand(model, "layer", x))
        del model


def test_rows_say_what_a_topology_says() -> None:
    start = Start(
        "g",
        40,
        ("add", "sin", "gauss"),
        (Written("a", "mul", ("x0", "x1")), Written("b", "add", ("a", None))),
        20,
    )
    rows = first_rows(start, 3, 11)
    topology = topology_of(rows, 3, start.names)
    assert topology.count == 22 and topology.next == 22
    assert set(topology.rows) == {"a", "b", *(f"n{k}" for k in range(2, 22))}
    pruned = mutate(
        topology, [Prune("n21")] if not (topology.args == 3 + topology.rows["n21"]).any() else []
    ).topology
    for each in (topology, pruned):
        again = topology_of(rows_of(each, start.names), 3, start.names)
        assert again.names == each.names and again.next == each.next
        for part in ("kind", "args", "born"):
            assert np.array_equal(getattr(again, part), getattr(each, part))
    kinds = set(topology.kind[topology.live].tolist())
    assert kinds <= {KINDS[name] for name in ("add", "sin", "gauss", "mul")}


# -- who reads


def test_readers_are_found_through_concat_and_links() -> None:
    text = random() + TASK.replace("linear(columns, 2)", "linear(concat(x, columns), 2) + linear(columns, 2)")
    found = find_readers(flatten(checked(text).graph))["layer"]
    assert sorted(reader.offset for reader in found.readers) == [0, 4]
    assert not found.refused
    shown = find_readers(flatten(checked(random() + SHOWN).graph))["layer"]
    assert "columns" in shown.refused[0].what


@pytest.mark.parametrize(
    "rule", ["feedback", "synthetic", "target", "alternate", "predictive", "equilibrium", "hebbian"]
)
def test_the_other_credit_rules_run_through_op_graphs(rule: str) -> None:
    model = model_of(random() + random("second") + TWO.replace("CREDIT", rule))
    assert all(loss.isfinite() for loss in model.learn(**batch()).losses.values())
    for part in (model.layer, model.second):
        assert part.numbers.grad.isfinite().all() and part.numbers.grad.abs().sum() > 0


def test_inductor_computes_a_table_that_changes() -> None:
    plain, compiled = (
        r2d2c.compile(checked(WRITTEN + SHOWN), backend=name) for name in ("eager", "inductor")
    )
    x = batch()["x"]
    for row in (None, 3):  # at first, and without the op of row 3
        for model in (plain, compiled):
            if row is not None:
                model.get_buffer("layer.kind")[row] = -1
                model.get_buffer("layer.args")[row] = -1
        torch.testing.assert_close(compiled(x=x)["columns"], plain(x=x)["columns"])
