"""How shares of a batch are lowered: what needs other processes, and what needs none of their messages."""

from __future__ import annotations

from pathlib import Path

import pytest

import r2d2c
from r2d2c.lower.processes import shares_of, ways_of_shares
from r2d2c.lower.rows import Share
from r2d2c.lower.shares import Way
from r2d2c.model import Model
from tests.e2e.coupled import LOOP, LOSSES, ONE, SPIKES

SPECS = Path(__file__).parents[2] / "specs"
# Nothing in them looks at several samples but means, batch_norm and op graphs, or a rule that doubles its batch.
ALONE = [
    "baselines/conv",
    "credit/backprop",
    "credit/equilibrium",
    "credit/goodness",
    "credit/hebbian",
    "credit/predictive",
    "credit/target",
    "growth/digits",
    "growth/tabular",
    "loops/parity_act",
    "memory/fifo",
    "memory/segments",
    "r2d2/digits",
    "tasks/two_heads",
]


def model_of(text: str) -> Model:
    return Model(r2d2c.loads(text))


def ways(text: str) -> dict[str, Way]:
    found = ways_of_shares(model_of(text))
    assert found is not None
    assert found.refused is None
    return found.ways


@pytest.mark.parametrize("name", ALONE)
def test_where_nothing_is_coupled_nothing_is_lowered_in_another_way(name: str) -> None:
    assert ways_of_shares(Model(r2d2c.load(SPECS / f"{name}.yaml"))) is None


def test_a_mean_goes_into_a_loss_without_a_message() -> None:
    assert ways_of_shares(model_of(ONE.format(loss="3 * mean(square(h)) + 0.5 * mse(h, 0.5)"))) is None
    assert ways(ONE.format(loss="square(mean(h))")) == {"t1.square": Way(((("mean", None),),))}


def test_a_sum_is_scaled_and_a_mask_counted_without_the_rows_of_others() -> None:
    (summed,) = ways(ONE.format(loss=LOSSES["sum"])).values()
    assert summed.outputs == ((("over_part", None),),)
    assert not summed.sends
    (masked,) = ways(ONE.format(loss=LOSSES["mask"])).values()
    assert masked.counted
    assert not any(masked.given)


def test_rows_are_gathered_along_the_axis_of_samples() -> None:
    (nce,) = ways(ONE.format(loss=LOSSES["info_nce"])).values()
    assert nce == Way(((("whole", 0),), (("whole", 0),), (), ()), ((),), True)
    (flipped, *_) = ways(ONE.format(loss=LOSSES["flipped"])).values()
    assert flipped == Way(((("whole", 0),),), ((("own", 0),),), True)


def test_a_cost_that_a_loop_adds_up_needs_no_message_and_one_that_it_reads_does() -> None:
    def sent(more: str) -> set[str]:
        found = ways(LOOP.format(options="", carry="f32[B, H] = zeros", more=more, cost="r.cost"))
        return {name.rpartition(".")[2] for name, way in found.items() if any(way.given)}

    assert sent("") == set()
    assert len(sent("+ cost")) == 1


HALTS = (SPECS / "loops/parity_act.yaml").read_text()
CENTRED = "- mean(v, axes=0, keep=true)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            HALTS.replace("says = linear(c, C)", "says = linear(c - mean(c, axes=0, keep=true), C)"),
            "its samples halt",
        ),
        (SPIKES.replace("linear(xt, H) +", f"linear(xt, H) {CENTRED} +"), "e-prop"),
    ],
)
def test_coupling_where_processes_cannot_wait_is_refused(text: str, why: str) -> None:
    model = model_of(text)
    found = ways_of_shares(model)
    assert found is not None
    assert found.refused is not None
    assert why in found.refused[1]
    assert shares_of(model) is None  # all rows are here
    model._share = Share(0, 1, 2)
    with pytest.raises(TypeError, match="couples samples"):
        shares_of(model)
