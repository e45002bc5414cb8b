"""Op graphs: levels against networkx, values and gradients against one node at a time, and what must not change."""

from dataclasses import replace
from unittest import mock

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from r2d2c.lower import opgraph as engine
from r2d2c.lower.opgraph import Normalise, columns, load
from r2d2c.lower.opgraph_kernels import arrays_for, numpy_arrays, torch_arrays
from r2d2c.opgraph import ARGUMENTS, ARITY, FREE, KINDS, NUMBER, OP_KINDS, Topology, depths, empty, plan

# What the kinds are, by hand: nothing of the table's formulas.
BY_HAND = {
    "identity": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b.abs()),
    "max": torch.maximum,
    "min": torch.minimum,
    "gauss": lambda a, b: torch.exp(-((a - b) ** 2)),
    "gated": lambda a, b: a * torch.sigmoid(b),
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "abs": torch.abs,
    "square": lambda a: a * a,
    "multiply_add": lambda a, b, c: a * b + c,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: F.softplus(a, threshold=1e9),
    "silu": F.silu,
    "gelu": lambda a: F.gelu(a, approximate="tanh"),
    "exp": lambda a: torch.exp(a.clamp(max=10)),
    "log": lambda a: torch.log1p(a.abs()),
    "sqrt": lambda a: torch.sqrt(a.abs() + 0.01),
    "sign": torch.sign,
    "mean": lambda a, b: torch.stack([a, b]).mean(0),
    "hypot": lambda a, b: torch.sqrt(a**2 + b**2 + 1e-4),
    "where": lambda a, b, c: torch.where(c > 0, a, b),
    "mix": lambda a, b, c: torch.lerp(b, a, torch.sigmoid(c)),
}
LIBRARIES = {"numpy": numpy_arrays, "torch": torch_arrays}
NORMALISED: list[tuple[Normalise, bool]] = [("none", True), ("batch", True), ("batch", False)]


def grown(
    seed: int, nodes: int, inputs: int = 3, capacity: int | None = None, own: float = 0.2, first: int = 0
) -> Topology:
    """Random nodes on random earlier columns, in random rows. ``own``: the share of numbers, of arguments from ``first``."""
    draw = np.random.default_rng(seed)
    table = empty(inputs, capacity or nodes)
    rows = draw.permutation(table.capacity)[:nodes]
    at = np.concatenate([np.arange(inputs), inputs + rows])
    names: list[str | None] = list(table.names)
    kind, args = table.kind.copy(), table.args.copy()
    for number, row in enumerate(rows):
        kind[row] = draw.integers(len(OP_KINDS))
        read = at[draw.permutation(inputs + number)[:ARGUMENTS]]
        place = np.arange(ARGUMENTS)
        drawn = (draw.random(ARGUMENTS) < own) & (place >= first)
        args[row] = np.where(drawn | (place >= ARITY[kind[row]]), NUMBER, read)
        names[row] = f"n{number}"
    return replace(table, kind=kind, args=args, names=tuple(names), next=nodes)


def without(table: Topology, first: int) -> Topology:
    """The nodes before that of this number."""
    gone = np.array([name is not None and int(name[1:]) >= first for name in table.names])
    return replace(
        table,
        kind=np.where(gone, FREE, table.kind),
        args=np.where(gone[:, None], NUMBER, table.args),
        names=tuple(None if out else name for name, out in zip(table.names, gone, strict=True)),
    )


def one_by_one(
    table: Topology, x: Tensor, numbers: Tensor, mean: Tensor, var: Tensor, normalise: str, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The columns, a node after the other, and the new statistics."""
    found = {column: x[:, column] for column in range(table.inputs)}
    mean, var = mean.clone(), var.clone()
    for row in sorted(table.rows.values(), key=lambda row: int(str(table.names[row])[1:])):
        op = BY_HAND[OP_KINDS[table.kind[row]].name]
        taken = [
            numbers[row, place].expand(len(x)) if column == NUMBER else found[int(column)]
            for place, column in enumerate(table.args[row][: ARITY[table.kind[row]]])
        ]
        value = op(*taken)
        if normalise == "batch" and training:
            centre, spread = value.mean(), value.var(correction=0)
            mean[row] += 0.1 * (centre - mean[row]).detach()
            var[row] += 0.1 * (value.var(correction=1) - var[row]).detach()
            value = (value - centre) / (spread + 1e-5).sqrt()
        elif normalise == "batch":
            value = (value - mean[row]) / (var[row] + 1e-5).sqrt()
        found[table.inputs + row] = value
    none = torch.zeros(len(x), dtype=x.dtype)
    return torch.stack([found.get(column, none) for column in range(table.columns)], 1), mean, var


def values(table: Topology, batch: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, numbers, and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, table.inputs), (table.capacity, ARGUMENTS), (table.capacity,), (table.capacity,))
    x, numbers, mean, var = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return [x, numbers, mean, var.exp()]


@pytest.fixture
def library(request):
    """Have one library make the calls, whatever the device and the type."""
    with mock.patch.object(engine, "arrays_for", lambda x: LIBRARIES[request.param]()):
        yield request.param


def test_numpy_computes_on_cpus_and_torch_elsewhere():
    x = torch.zeros(1)
    assert all(arrays_for(value) is numpy_arrays() for value in (x, x.double(), torch.nn.Parameter(x)))
    assert all(arrays_for(value) is torch_arrays() for value in (x.bfloat16(), x.to("meta")))
    with FakeTensorMode():
        assert arrays_for(torch.zeros(1)) is torch_arrays()


def test_the_hand_written_ops_are_all():
    assert list(BY_HAND) == [kind.name for kind in OP_KINDS]
    assert all(len(kind.slopes) == kind.arity <= ARGUMENTS for kind in OP_KINDS)


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
@pytest.mark.parametrize("kind", OP_KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("normalise, training", NORMALISED)
def test_gradients_of_each_kind_against_finite_differences(library, kind, normalise, training):
    table = empty(3, 2)
    args = np.array([[2, 0, 1], [NUMBER, 1, NUMBER]], np.int32)
    table = replace(table, kind=np.full(2, KINDS[kind.name], np.int16), args=args, names=("n0", "n1"))
    x, numbers, mean, var = values(table, 5, 3)
    program = load(plan(table))

    def run(x: Tensor, numbers: Tensor) -> Tensor:
        return columns(program, x, numbers, mean, var, normalise, training)[0]

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), numbers.requires_grad_()))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 40),
    st.integers(0, 5),
    st.integers(16, 24),
    st.sampled_from(NORMALISED),
    st.floats(0, 1),
    st.sampled_from(sorted(LIBRARIES)),
)
def test_values_and_gradients_are_those_of_one_node_at_a_time(seed, nodes, free, batch, mode, own, library):
    table = grown(seed, nodes, capacity=nodes + free, own=own, first=int(mode == ("batch", True)))
    x, numbers, mean, var = values(table, batch, seed)
    x, numbers = x.requires_grad_(), numbers.requires_grad_()
    weight = torch.randn(batch, table.columns, generator=torch.Generator().manual_seed(seed)).double()
    theirs = one_by_one(table, x, numbers, mean, var, *mode)
    # Beyond, squares of squares and their sines are as much rounding as value.
    assume(theirs[0].abs().max() < 1e4)
    if mode == (
        "batch",
        True,
    ):  # what is constant is normalised to rounding errors, the larger the deeper it lies
        assume((theirs[0].var(0)[table.inputs :][table.live] > 0.1).all())
    expected = torch.autograd.grad((theirs[0] * weight).sum(), (x, numbers), materialize_grads=True)
    with mock.patch.object(engine, "arrays_for", lambda x: LIBRARIES[library]()):
        ours = columns(load(plan(table)), x, numbers, mean, var, *mode)
        found = torch.autograd.grad((ours[0] * weight).sum(), (x, numbers))
    for mine, other in zip((*ours, *found), (*theirs, *expected), strict=True):
        close = 1e-9 * (1 + float(other.detach().norm()))
        torch.testing.assert_close(mine, other, rtol=0, atol=close)
    assert (ours[0][:, table.inputs :][:, ~torch.from_numpy(table.live)] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 5))
def test_levels_are_the_longest_paths(seed, nodes, free):
    table = grown(seed, nodes, capacity=nodes + free)
    graph = nx.DiGraph()
    graph.add_nodes_from(table.rows.values())
    for row in table.rows.values():
        reads = table.args[row][: ARITY[table.kind[row]]]
        graph.add_edges_from((int(column) - table.inputs, row) for column in reads if column >= table.inputs)
    expected = dict.fromkeys(range(table.capacity), 0)
    for depth, generation in enumerate(nx.topological_generations(graph), 1):
        expected |= dict.fromkeys(generation, depth)
    assert depths(table).tolist() == [expected[row] for row in range(table.capacity)]

    schedule = plan(table)
    assert sorted(schedule.nodes.tolist()) == sorted(table.rows.values())
    for level, step in enumerate(schedule.levels, 1):
        rows = schedule.nodes[step.start - table.inputs : step.stop - table.inputs]
        assert {expected[row] for row in rows.tolist()} == {level}
        assert [kind for kind, count in step.groups for _ in range(count)] == table.kind[rows].tolist()
        assert len(dict(step.groups)) == len(step.groups), "a kind is computed once in a level"


def test_cycles_and_free_rows_are_told_by_depths_and_not_planned():
    add = KINDS["add"]
    kind = np.array([add, add, add, add, FREE, add], np.int16)
    # n0 is fine; n1 and n2 read each other; n3 is behind them; n5 reads the free row.
    args = np.array([[0, 1, -1], [4, 0, -1], [3, 0, -1], [3, 2, -1], [-1, -1, -1], [6, 0, -1]], np.int32)
    names = ("n0", "n1", "n2", "n3", None, "n5")
    table = replace(empty(2, 6), kind=kind, args=args, names=names)
    assert depths(table).tolist() == [1, -1, -1, -1, 0, -1]
    with pytest.raises(ValueError, match="n1 reads itself"):
        plan(table)
    own = replace(empty(1, 1), kind=np.array([add], np.int16), args=np.array([[1, 0, -1]]), names=("n0",))
    assert depths(own).tolist() == [-1]


@pytest.mark.parametrize("library, threads", [("numpy", 1), ("torch", 1), ("torch", 2)], indirect=["library"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalise, training", NORMALISED)
@pytest.mark.parametrize("batch, nodes", [(7, 60), (33, 200), (301, 200), (40_000, 6)])
def test_new_nodes_change_no_bit_of_the_others(library, threads, dtype, normalise, training, batch, nodes):
    """For this no sum and no vector of the processor may depend on how many rows a call has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(1, 3):
            after = grown(seed, nodes, capacity=nodes + 5)
            table = without(after, nodes // 2)
            given = values(after, batch, seed, dtype)
            old = columns(load(plan(table)), *given, normalise, training)
            new = columns(load(plan(after)), *given, normalise, training)
            kept = [*range(table.inputs), *(table.inputs + row for row in table.rows.values())]
            rows = list(table.rows.values())
            assert len(rows) < len(after.rows)
            for mine, other, at in zip(old, new, (kept, rows, rows), strict=True):
                assert bytes_of(mine[..., at]) == bytes_of(other[..., at])
    finally:
        torch.set_num_threads(before)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("library", LIBRARIES, indirect=True)
@pytest.mark.parametrize("normalise", ["none", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_alone_has_its_row_of_the_batch(library, normalise, dtype):
    table = grown(5, 200, capacity=210)
    x, *rest = values(table, 37, 1, dtype)
    program = load(plan(table))
    whole = columns(program, x, *rest, normalise, False)[0]
    for sample in (0, 17, 36):
        alone = columns(program, x[sample : sample + 1], *rest, normalise, False)[0]
        assert bytes_of(alone[0]) == bytes_of(whole[sample])


def test_statistics_of_free_rows_and_of_evaluation_stay():
    table = grown(2, 9, capacity=12)
    x, numbers, mean, var = values(table, 6, 0)
    program = load(plan(table))
    for normalise, training in (("none", True), ("batch", False)):
        _, same, too = columns(program, x, numbers, mean, var, normalise, training)
        assert same is mean and too is var
    _, moved, spread = columns(program, x, numbers, mean, var, "batch", True, 0.5)
    free = ~torch.from_numpy(table.live)
    assert torch.equal(moved[free], mean[free]) and torch.equal(spread[free], var[free])
    assert (moved[~free] != mean[~free]).all() and not moved.requires_grad


def test_normalised_columns_have_mean_0_and_variance_1():
    table = grown(4, 30, own=0)
    given = values(table, 50, 0)
    found = columns(load(plan(table)), *given, "batch", True)[0][:, table.inputs :]
    varied = found.var(0, correction=0)
    assert found.mean(0).abs().max() < 1e-9 and (varied < 1 + 1e-9).all() and (varied > 0.9).sum() > 20


def test_an_op_graph_without_nodes_and_a_batch_without_samples():
    table = empty(2, 3)
    x, *rest = values(table, 4, 0)
    found = columns(load(plan(table)), x.requires_grad_(), *rest, "batch", True)[0]
    found.sum().backward()
    assert torch.equal(found[:, :2], x) and (found[:, 2:] == 0).all() and (x.grad == 1).all()
    table = grown(1, 8)
    given = values(table, 0, 0)
    assert columns(load(plan(table)), *given)[0].shape == (0, table.columns)


def test_second_derivatives_are_refused():
    table = grown(3, 10)
    x, *rest = values(table, 4, 0)
    found = columns(load(plan(table)), x.requires_grad_(), *rest)[0]
    (slope,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_half_precision_is_near():
    table = grown(6, 20)
    given = values(table, 8, 0, torch.float32)
    program = load(plan(table))
    whole = columns(program, *given, "batch", False)[0]
    half = columns(program, *(value.bfloat16() for value in given), "batch", False)[0]
    assert half.dtype == torch.bfloat16
    assert ((half.float() - whole).abs() < 0.1 * (1 + whole.abs())).float().mean() > 0.9


def test_python_makes_a_call_per_kind_and_level_not_per_node():
    calls = []
    kernels = {
        number: replace(kernel, forward=counted(kernel.forward, calls))
        for number in range(len(OP_KINDS))
        for kernel in [numpy_arrays().kernels[number]]
    }
    table = grown(0, 2000, own=0)
    program = load(plan(table))
    arrays = replace(numpy_arrays(), kernels=kernels)
    with mock.patch.object(engine, "arrays_for", lambda x: arrays):
        columns(program, *values(table, 2, 0))
    groups = {(depth, kind) for depth, kind in zip(depths(table).tolist(), table.kind.tolist(), strict=True)}
    assert len(calls) == len(groups) < 500


def counted(call, calls):
    def run(*args):
        calls.append(call)
        call(*args)

    return run
