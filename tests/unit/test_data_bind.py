"""Binding columns to ports, and the order of batches."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.source import Source, Span
from r2d2c.train.data import (
    BatchPlan,
    BoundData,
    Column,
    Dataset,
    Port,
    Table,
    bind,
    from_batches,
    open_data,
    stable_seed,
)

DIGITS = open_data("digits")
PORTS: dict[str, Port] = {"x": ("f32", (None, 64)), "y": ("i64", (None,))}


def bound(dataset: Dataset, ports: dict[str, Port], **options: Any) -> BoundData:
    sink = Sink()
    data = bind(dataset, ports, sink, **options)
    assert not sink.diagnostics
    assert data is not None
    return data


def said(dataset: Dataset, ports: dict[str, Port], **options: Any) -> list[str]:
    sink = Sink()
    assert bind(dataset, ports, sink, **options) is None
    return [f"{d.code}: {d.message}" for d in sink.diagnostics]


def small(**columns: Any) -> Dataset:
    return Dataset("small", Table({name: Column(np.asarray(values)) for name, values in columns.items()}))


def epoch(data: BoundData, **options: Any) -> list[dict[str, torch.Tensor]]:
    assert data.train is not None
    return list(data.train.loader(**options).epoch(1))


# The plan


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 9), st.booleans())
def test_batches_are_a_permutation_and_resume_equals_the_tail(
    n: int, size: int, seed: int, number: int, shuffle: bool
) -> None:
    plan = BatchPlan(n, size, seed, shuffle)
    batches = list(plan.batches(number))
    assert len(batches) == len(plan)
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    start = n % (len(plan) + 1)
    tail = list(BatchPlan(n, size, seed, shuffle).batches(number, start))
    assert all(torch.equal(a, b) for a, b in zip(batches[start:], tail, strict=True))


def test_orders_differ_between_epochs_and_seeds_and_never_change() -> None:
    plan = BatchPlan(10, 4, seed=7, shuffle=True)
    assert plan.order(0).tolist() == [7, 2, 6, 4, 3, 0, 5, 8, 9, 1]
    orders = {tuple(BatchPlan(20, 4, seed, True).order(e).tolist()) for seed in range(5) for e in range(5)}
    assert len(orders) == 25
    assert stable_seed("order", 7, 0) == stable_seed("order", 7, 0)
    state = torch.get_rng_state()
    plan.order(3)
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator is not touched"


def test_drop_last() -> None:
    assert [len(b) for b in BatchPlan(10, 4).batches(0)] == [4, 4, 2]
    assert [len(b) for b in BatchPlan(10, 4, drop_last=True).batches(0)] == [4, 4]
    with pytest.raises(ValueError, match="no batch of 11 samples can be had from 10"):
        BatchPlan(10, 11, drop_last=True)


# Binding


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_batches_have_the_ports_types(limit: int) -> None:
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    dataset = Dataset(
        "bytes", Table({"x": Column(images, divisor=255.0), "y": Column(np.arange(5, dtype=np.uint8))})
    )
    ports: dict[str, Port] = {"x": ("f32", (None, 6)), "y": ("i64", (None,))}
    data = bound(dataset, ports, memory_limit=limit)
    (batch,) = epoch(data, batch_size=5)
    assert batch["x"].dtype == torch.float32
    assert batch["y"].dtype == torch.int64
    assert np.array_equal(batch["x"].numpy(), dataset.train["x"].reshape(5, 6))
    assert data.notes == ("port `x` takes column `x`, reshaped from [2, 3] to [6]",)
    assert data.splits.keys() == {"train"}


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("f64", torch.float64), ("bf16", torch.bfloat16), ("f16", torch.float16)]
)
def test_float_ports(dtype: str, wanted: torch.dtype) -> None:
    (batch,) = epoch(bound(DIGITS, {"x": (dtype, (None, 64))}), batch_size=2000)
    assert batch["x"].dtype == wanted


def test_shuffled_batches_keep_their_labels_and_resume() -> None:
    data = bound(DIGITS, PORTS, bounds={"y": 10})
    assert data.train is not None
    loader = data.train.loader(100, seed=3, shuffle=True)
    batches = list(loader.epoch(2))
    assert loader.count == len(batches) == 15
    assert [len(b["y"]) for b in batches] == [100] * 14 + [38]
    found = {(x.tobytes(), int(y)) for b in batches for x, y in zip(b["x"].numpy(), b["y"], strict=True)}
    truth = {(x.tobytes(), int(y)) for x, y in zip(DIGITS.train["x"], DIGITS.train["y"], strict=True)}
    assert found == truth
    for ours, theirs in zip(
        data.train.loader(100, seed=3, shuffle=True).epoch(2, start=9), batches[9:], strict=True
    ):
        assert torch.equal(ours["x"], theirs["x"])
    assert data.classes == tuple("0123456789")


def test_image_feeds_x_and_x_feeds_image() -> None:
    data = bound(DIGITS, {"image": ("f32", (None, 8, 8)), "x": ("f32", (None, 1, 8, 8))})
    (batch,) = epoch(data, batch_size=2000)
    assert batch["image"].shape == (1438, 8, 8)
    assert torch.equal(batch["x"].squeeze(1), batch["image"])
    assert data.notes == (
        "port `image` takes column `image`, reshaped from [1, 8, 8] to [8, 8]",
        "port `x` takes column `image`",
    )
    only_x = small(x=np.zeros((4, 16), np.float32))
    assert epoch(bound(only_x, {"image": ("f32", (None, 4, 4))}), batch_size=4)[0]["image"].shape == (4, 4, 4)


def test_columns_can_be_named_for_ports() -> None:
    data = bound(DIGITS, {"clean": ("f32", (None, 64)), "x": ("f32", (None, 64))}, columns={"clean": "x"})
    (batch,) = epoch(data, batch_size=2000)
    assert torch.equal(batch["clean"], batch["x"])


def test_dynamic_dims_take_any_size() -> None:
    data = small(x=np.zeros((3, 7), np.int32))
    assert epoch(bound(data, {"x": ("i64", (None, None))}), batch_size=3)[0]["x"].shape == (3, 7)
    assert said(data, {"x": ("i64", (None, None, None))}) == [
        "E511: port `x` is i64[N, …, …], column `x` of small is i32[N, 7]"
    ]


def test_single_column_regression() -> None:
    data = small(y=np.arange(4.0))
    assert epoch(bound(data, {"y": ("f32", (None, 1))}), batch_size=4)[0]["y"].shape == (4, 1)


def test_every_mistake_is_reported_at_once_and_at_its_port() -> None:
    source = Source("spec.yaml", "x: f32[B, 32]\nz: i64[B]\ny: i64[B]\nimage: i64[B, 64]\n")
    spans = {"x": Span(source, 0, 1), "z": Span(source, 14, 15)}
    ports: dict[str, Port] = {
        "x": ("f32", (None, 32)),
        "imagee": ("i64", (None,)),
        "y": ("i64", (None,)),
        "image": ("i64", (None, 64)),
    }
    sink = Sink()
    assert bind(DIGITS, ports, sink, spans=spans) is None
    assert [str(d) for d in sink.diagnostics] == [
        "spec.yaml:1:1: error[E511]: port `x` is f32[N, 32], column `x` of digits is f32[N, 64]",
        "error[E510]: the train data of digits has no column `imagee` for port `imagee`",
        "error[E512]: port `image` is i64[N, 64], column `x` of digits is f32[N, 64]",
    ]
    listed = "`x` f32[N, 64], `image` f32[N, 1, 8, 8], `y` i64[N]"
    assert sink.diagnostics[0].notes == (f"the columns of its train data are: {listed}",)
    assert sink.diagnostics[1].notes == (f"its columns are: {listed}",)
    fix = sink.diagnostics[1].fix
    assert fix is not None
    assert fix.text == "did you mean `image`?"


def test_labels_out_of_range() -> None:
    sink = Sink()
    assert bind(DIGITS, PORTS, sink, bounds={"y": 9}) is None
    first = int((DIGITS.train["y"] == 9).argmax())
    (diagnostic, _) = sink.diagnostics
    assert diagnostic.code == "E513"
    assert diagnostic.message == f"port `y`: sample {first} of the train data of digits is 9, outside 0 … 8"
    assert diagnostic.fix is not None
    assert diagnostic.fix.text == "the spec has 9 classes here: give the dim that counts them its true size"
    assert said(small(y=[0, 1, -1]), {"y": ("i64", (None,))}, bounds={"y": 3}) == [
        "E513: port `y`: sample 2 of the train data of small is -1, outside 0 … 2"
    ]
    # two tokens a sample: the sample is counted, not the element
    assert said(small(y=[[0, 1], [2, 3]]), {"y": ("i64", (None, 2))}, bounds={"y": 3}) == [
        "E513: port `y`: sample 1 of the train data of small is 3, outside 0 … 2"
    ]


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_values_a_port_cannot_hold(limit: int) -> None:
    assert said(small(x=[1.0, np.nan]), {"x": ("f32", (None,))}, memory_limit=limit) == [
        "E509: port `x`: sample 1 of the train data of small is nan, not a finite number"
    ]
    assert said(small(x=[1.0, 2.0, -np.inf]), {"x": ("f64", (None,))}, memory_limit=limit) == [
        "E509: port `x`: sample 2 of the train data of small is -inf, not a finite number"
    ]
    assert said(small(x=[1, 300]), {"x": ("u8", (None,))}, memory_limit=limit) == [
        "E513: port `x`: sample 1 of the train data of small is 300, outside 0 … 255"
    ]
    assert said(small(x=[1, 2]), {"x": ("bool", (None,))}, memory_limit=limit) == [
        "E513: port `x`: sample 1 of the train data of small is 2, outside 0 … 1"
    ]
    assert said(small(x=[1.0, 1e300]), {"x": ("f32", (None,))}, memory_limit=limit) == [
        "E509: port `x`: sample 1 of the train data of small is inf, not a finite number"
    ]


def test_too_large_a_batch() -> None:
    data = bound(DIGITS, PORTS)
    assert data.train is not None
    with pytest.raises(CompileError) as caught:
        data.train.loader(5000, drop_last=True)
    assert caught.value.diagnostics[0].message == "no batch of 5000 samples can be had from 1438"


# Batches from Python


def stream(batches: Any, **options: Any) -> list[dict[str, torch.Tensor]]:
    data = from_batches(batches, **options).bind({"x": ("f32", (None, 2)), "y": ("i64", (None,))}, {"y": 3})
    assert data.train is not None
    return list(data.train.loader(1).epoch(4))


def stream_says(batches: Any, **options: Any) -> str:
    with pytest.raises(CompileError) as caught:
        stream(batches, **options)
    return f"{caught.value.diagnostics[0].code}: {caught.value.diagnostics[0].message}"


GOOD = {"x": np.zeros((3, 2)), "y": [0, 1, 2]}


def test_lists_loaders_and_functions_of_the_epoch() -> None:
    (batch,) = stream([GOOD])
    assert batch["x"].dtype == torch.float32
    assert batch["y"].tolist() == [0, 1, 2]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)), batch_size=2
    )
    assert len(stream(loader, names=("x", "y"))) == 3
    assert stream(lambda: iter([GOOD, GOOD]))[1]["x"].shape == (3, 2)
    assert stream(lambda number: iter([GOOD] * number), names=None)[3:]
    split = from_batches(loader, names=("x", "y")).bind({"x": ("f32", (None, 2))}).train
    assert split is not None
    assert split.loader(1).count == 3
    assert len(list(split.loader(1).epoch(0, start=2))) == 1


def test_a_generator_runs_only_once() -> None:
    def once() -> Iterator[dict[str, Any]]:
        yield GOOD

    split = from_batches(once()).bind({"x": ("f32", (None, 2))}).train
    assert split is not None
    assert len(list(split.loader(1).epoch(0))) == 1
    with pytest.raises(CompileError) as caught:
        list(split.loader(1).epoch(1))
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.message == "the train data gave no batch in epoch 1"
    assert diagnostic.notes == ("a generator can be run through only once",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (3, "E514: batch 0 of the train data is int, not a mapping from port to tensor"),
        ({"x": np.zeros((3, 2))}, "E510: batch 0 of the train data has nothing for port `y`"),
        (
            GOOD | {"x": np.zeros((3, 4))},
            "E511: batch 0 of the train data: port `x` is [B, 2], it got [3, 4]",
        ),
        (GOOD | {"x": 5.0}, "E511: batch 0 of the train data: port `x` is [B, 2], it got []"),
        (GOOD | {"y": [0.5, 1, 2]}, "E512: batch 0 of the train data: port `y` is i64, it got float64"),
        (
            GOOD | {"y": [0, 1, 3]},
            "E513: batch 0 of the train data: sample 2 of port `y` is 3, outside 0 … 2",
        ),
        (
            GOOD | {"x": [[0, 0], [np.nan, 0], [0, 0]]},
            "E509: batch 0 of the train data: sample 1 of port `x` is nan, not a finite number",
        ),
        (
            GOOD | {"y": [0, 1]},
            "E514: batch 0 of the train data has unequal or empty ports: {'x': 3, 'y': 2}",
        ),
        (
            GOOD | {"y": np.array([0, 2**63, 1], np.uint64)},
            f"E513: batch 0 of the train data: sample 1 of port `y` is {-(2**63)}, outside 0 … 2",
        ),
    ],
)
def test_bad_batches(batch: Any, message: str) -> None:
    assert stream_says([batch]) == message


def test_bad_streams() -> None:
    assert stream_says([{"x": ["a"], "y": [0]}]).startswith(
        "E508: batch 0 of the train data: port `x` got list, not numbers"
    )
    assert stream_says([(1, 2, 3)], names=("x", "y")) == (
        "E514: batch 0 of the train data has 3 items, where 2 names are given"
    )
    message = "E514: the function of the train data gave NoneType, no iterable of batches"
    assert stream_says(lambda: None) == message
    assert stream_says(7) == "E514: the train data is int, not an iterable of batches"
    assert stream_says(itertools.chain()) == "E514: the train data gave no batch in epoch 4"
