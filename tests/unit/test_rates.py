"""Learning rates by group: what `rates` means, its mistakes, every group's rate at every moment, exact resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import Visit
from r2d2c.train.calls import Call
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.rates import by_parameter
from r2d2c.train.settings import Settings, read_settings
from r2d2c.train.stepper import Kind, Stepper, plan_groups
from tests.unit.runs import StopAt

HEAD = """\
r2d2c: 1
model: rated
dims: {D: 64, H: 32, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(H) |> batch_norm |> tanh
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
    keep: own
  t2:
    behavior: h = t1.h |> linear(H) |> tanh |> linear(H)
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
  t3:
    behavior: logits = t2.h |> linear(C)
    distance: cross_entropy(logits, y)
links:
  t1.h -> t2: {credit: synthetic}
  t2.h -> t3: {credit: local, feed: t2.r}
outputs:
  logits: t3.logits
train:
  data: digits
  epochs: 3
  batch_size: 100
  optimizer: adam(lr=2e-3)
  schedule: warmup(epochs=1) |> cosine
"""
NAMES = (
    *(f"t1.h.{name}" for name in ("linear.weight", "linear.bias", "batch_norm.weight", "batch_norm.bias")),
    *(f"t1.r.linear.{name}" for name in ("weight", "bias")),
    *(f"t1.synthetic.predictor.{name}" for name in ("weight", "bias")),
    *(f"t2.h.{name}" for name in ("linear.weight", "linear.bias", "linear_2.weight", "linear_2.bias")),
    *(f"t2.r.linear.{name}" for name in ("weight", "bias")),
    *(f"t3.logits.linear.{name}" for name in ("weight", "bias")),
)
RATES = '  rates:\n    t1.r: 0.1\n    "*.synthetic": 10\n    t2: 1/2\n    t2.h.linear_2: 0\n'


pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(text: str, *settings: str) -> Settings | list[str]:
    sink = Sink()
    found = read_settings(r2d2c.loads(text, settings=settings), sink)
    return found if found is not None else [str(d).removeprefix("<spec>:") for d in sink.diagnostics]


def rates_of(text: str, *settings: str) -> dict[str, float]:
    found = settings_of(text, *settings)
    assert isinstance(found, Settings), found
    return dict(found.rates)


# -- what a key means


def test_the_names_are_those_of_the_model() -> None:
    assert {name for name, _ in r2d2c.compile(r2d2c.loads(HEAD)).named_parameters()} == set(NAMES)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("t1.r", ["t1.r.linear.weight", "t1.r.linear.bias"]),
        ("t1.r.linear.bias", ["t1.r.linear.bias"]),
        ("*.synthetic", ["t1.synthetic.predictor.weight", "t1.synthetic.predictor.bias"]),
        ("t2.h.linear", ["t2.h.linear.weight", "t2.h.linear.bias"]),
        (
            "*.h.*.bias",
            ["t1.h.linear.bias", "t1.h.batch_norm.bias", "t2.h.linear.bias", "t2.h.linear_2.bias"],
        ),
        ("t2.h.lin*_2.w*", ["t2.h.linear_2.weight"]),
        ("*", list(NAMES)),
        ("t", []),
        ("t1.*.weight", []),
        ("t1.", []),
        ("t3.logits.linear.bias.x", []),
    ],
)
def test_a_key_is_the_beginning_of_names(key: str, names: list[str]) -> None:
    assert list(by_parameter({key: 3.0}, NAMES)) == names


def test_the_most_specific_key_counts() -> None:
    rates = {
        "*": 2.0,
        "t1.h.linear": 3.0,
        "t1": 4.0,
        "*.h.linear.bias": 5.0,
        "t3": 6.0,
        "t*3": 7.0,
        "t3*": 8.0,
    }
    found = by_parameter(rates, NAMES)
    assert found["t1.h.linear.weight"] == 3.0
    assert found["t1.h.linear.bias"] == 5.0
    assert found["t1.r.linear.bias"] == 4.0
    assert found["t2.r.linear.bias"] == 2.0
    assert found["t3.logits.linear.bias"] == 8.0  # as long as the two before it


def test_the_rates_of_a_spec() -> None:
    found = rates_of(HEAD + RATES)
    assert found == {
        **{name: 0.1 for name in NAMES if name.startswith("t1.r.")},
        **{name: 10.0 for name in NAMES if ".synthetic." in name},
        **{name: 0.5 for name in NAMES if name.startswith("t2.")},
        "t2.h.linear_2.weight": 0.0,
        "t2.h.linear_2.bias": 0.0,
    }
    assert rates_of(HEAD) == {}


def test_rates_may_be_set() -> None:
    text = HEAD + "  rates:\n    t1: 3\n"
    assert set(rates_of(text, "train.rates.t1=4").values()) == {4.0}
    assert rates_of(text, "train.rates.t1.r.linear.bias=5")["t1.r.linear.bias"] == 5.0
    assert set(rates_of(text, "train.rates={t2: 6}").values()) == {6.0}
    for setting in ("train.rates.*.synthetic=7", "train.rates.'*.synthetic'=7"):
        assert rates_of(HEAD, setting) == dict.fromkeys((n for n in NAMES if ".synthetic." in n), 7.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("t1.q: 2", "33:5: error[E549]: no parameter's name is or begins with `t1.q`"),
        ('"*.sinthetic": 2', "33:6: error[E549]: no parameter's name is or begins with `*.sinthetic`"),
        (
            "t1.h: -1",
            "33:11: error[E550]: the factor of `t1.h` must be a number that is not negative, not `-1`",
        ),
        (
            "t1.h: H/0",
            "33:11: error[E550]: the factor of `t1.h` must be a number that is not negative, not `H/0`",
        ),
        (
            "t1.h: 1e999",
            "33:11: error[E550]: the factor of `t1.h` must be a number that is not negative, not `1e999`",
        ),
        (
            "t1.h: true",
            "33:11: error[E550]: the factor of `t1.h` must be a number that is not negative, not `true`",
        ),
        (
            "t1.h: adam",
            "33:11: error[E550]: the factor of `t1.h` must be a number that is not negative, not `adam`",
        ),
    ],
)
def test_mistakes_in_rates(line: str, message: str) -> None:
    assert settings_of(f"{HEAD}  rates:\n    {line}\n") == [message]


@pytest.mark.parametrize(
    ("rates", "message"),
    [("3", "E152"), ("[t1]", "E152"), ("", "E160"), ("\n    t1:", "E160"), ("\n    t1: [1]", "E152")],
)
def test_rates_are_a_map_of_numbers(rates: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.loads(f"{HEAD}  rates: {rates}\n")
    assert [d.code for d in caught.value.diagnostics] == [message]


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("t1.sinthetic.predictor", "t1.synthetic.predictor"),
        ('"*.sinthetic"', "*.synthetic"),
        ("t2.h.liner_2", "t2.h.linear_2"),
    ],
)
def test_a_key_of_no_parameter_has_a_suggestion(key: str, fix: str) -> None:
    sink = Sink()
    read_settings(r2d2c.loads(f"{HEAD}  rates: {{{key}: 2}}\n"), sink)
    (found,) = sink.diagnostics
    assert found.fix is not None and found.fix.replacement == fix
    assert found.span is not None and found.span.text == key.strip('"')


def test_a_key_of_what_is_not_trained() -> None:
    text = HEAD.replace("    keep: own\n", "") + "  rates:\n    t1.r: 0.1\n"
    assert settings_of(text) == ["32:5: error[E549]: no parameter under `t1.r` is trained, so it has no rate"]


# -- groups and rates


def kinds_of(rates: dict[str, float]) -> dict[str, Kind]:
    return {name: Kind(factor) for name, factor in rates.items()}


def test_groups_of_factors() -> None:
    visits = [Visit(f"v{k}", (), (), (), (f"a{k}", f"b{k}", f"c{k}")) for k in range(2)]
    sizes = {f"{letter}{k}": 10**6 if letter == "a" else 10 for letter in "abc" for k in range(2)}
    rates = {"b0": 2.0, "b1": 2.0, "c1": 2.0}
    made = plan_groups(visits, sizes, kinds=kinds_of(rates), sometimes=("c0", "c1"))
    assert [(group.key, group.names) for group in made] == [
        ("0", ("a0",)),
        ("1.x2.0", ("b0", "b1")),
        ("1", ("a1",)),
        ("1.sometimes", ("c0",)),
        ("1.sometimes.x2.0", ("c1",)),
    ]
    ones = dict.fromkeys(sizes, 1.0)
    assert plan_groups(visits, sizes, kinds=kinds_of(ones)) == plan_groups(visits, sizes)


def stepper_of(model: r2d2c.Model, rates: dict[str, float], name: str, **more: Any) -> Stepper:
    record = next(record for record in OPTIMIZERS if record.name == name)
    parameters = dict(model.named_parameters())
    factors = by_parameter(rates, parameters)
    sometimes = model._sometimes
    visits = model._training_graph.visits
    return Stepper(
        parameters, visits, record, Call(name, {"lr": 0.01}), sometimes=sometimes, rates=factors, **more
    )


def learn(model: r2d2c.Model, stepper: Stepper, steps: int) -> Iterator[None]:
    stepper.zero_grad()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        batch = {"x": torch.rand(16, 64, generator=generator), "y": torch.arange(16) % 10}
        for number, _ in enumerate(model.visits(**batch)):
            stepper.after(number)
        stepper.after_batch()
        yield


@pytest.mark.parametrize(
    "parts", [["linear"], ["cosine"], ["warmup", "cosine"], ["exponential"], ["constant"], []]
)
def test_every_group_has_its_factor_of_the_rate_at_every_moment(parts: list[str]) -> None:
    model, plain = (r2d2c.compile(r2d2c.loads(HEAD)) for _ in range(2))
    stepper = stepper_of(model, {"t1.r": 0.1, "*.synthetic": 10, "t1": 3, "t2": 0, "t3": 2}, "adam")
    without = stepper_of(plain, {}, "adam")
    assert {group.factor for group in stepper.groups} == {0.1, 10.0, 3.0, 0.0, 2.0}  # none has the base rate
    for one in (stepper, without):
        one.set_schedule([Call(part) for part in parts], 2, 4)
    for _ in zip(learn(model, stepper, 8), learn(plain, without, 8), strict=True):
        rate = stepper.rate
        assert rate == without.rate
        for group, step in zip(stepper.groups, stepper._steps, strict=True):
            if group.factor:
                assert step.optimizer.param_groups[0]["lr"] == rate * group.factor  # type: ignore[union-attr]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rprop", "asgd"])
def test_a_factor_is_a_rate_of_its_own(name: str, early: bool) -> None:
    """Bit for bit what a training of all parameters with that rate gives, where nothing else is different."""
    text = HEAD.replace("{credit: synthetic}", "{credit: local}")
    model, fast, start = (r2d2c.compile(r2d2c.loads(text)) for _ in range(3))
    stepper = stepper_of(model, {"t1": 4, "t2.h": 0}, name, early=early)
    other = stepper_of(fast, {"*": 4}, name)
    for _ in zip(learn(model, stepper, 5), learn(fast, other, 5), strict=True):
        pass
    found, wanted, before = (dict(m.named_parameters()) for m in (model, fast, start))
    for key, tensor in found.items():
        if key.startswith("t1."):
            assert torch.equal(tensor, wanted[key]), key
        elif key.startswith("t2.h"):
            assert torch.equal(tensor, before[key]), key
        else:
            assert not torch.equal(tensor, before[key]), key
    assert all(found[name].grad is None for name in found if name.startswith("t2.h"))
    assert not any("t2.h" in name for packed in stepper.pack().values() for name in packed.tensors)


def test_clipping_does_not_look_at_what_stays() -> None:
    model = r2d2c.compile(r2d2c.loads(HEAD))
    stepper = stepper_of(model, {"t1": 0, "t2": 0}, "sgd", clip=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in learn(model, stepper, 1):
        pass
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in model.named_parameters()])
    assert moved.norm() == pytest.approx(1e-5, rel=1e-3)


# -- runs


@pytest.mark.parametrize("epoch", [0, 2])
def test_resume_with_rates_is_exact(tmp_path: Path, epoch: int) -> None:
    spec = tmp_path / "rated.yaml"
    spec.write_text(HEAD.replace("credit: synthetic", "credit: synthetic(every=2)") + RATES)
    # `*` in front of a key comes back from the run's own spec.
    more = ["train.rates.*.logits=3"]
    whole = r2d2c.train(spec, out=tmp_path / "whole", settings=more)
    with pytest.raises(Interrupted):
        r2d2c.train(spec, out=tmp_path / "run", settings=more, callbacks=[StopAt(epoch, 7)])
    run = r2d2c.train(resume=tmp_path / "run")
    assert rates_of(run.files.spec) == rates_of(spec.read_text(), *more)
    assert [m["lr"] for m in run.metrics if "lr" in m] == [m["lr"] for m in whole.metrics if "lr" in m]
    one, two = (load_checkpoint(r.folder / "checkpoints" / "last.safetensors") for r in (whole, run))
    assert one.state["schedule"] == two.state["schedule"]
    assert {key.partition(".")[2] for key in one.optimizers} >= {"", "x0.1", "x0.5", "x0.0", "x3.0"}
    assert one.optimizers.keys() == two.optimizers.keys()
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name]), name
    for key, packed in one.optimizers.items():
        assert packed.scalars == two.optimizers[key].scalars
        for name, tensor in packed.tensors.items():
            assert torch.equal(tensor, two.optimizers[key].tensors[name]), name


def test_a_run_goes_on_with_more_epochs(tmp_path: Path) -> None:
    spec = tmp_path / "rated.yaml"
    spec.write_text(HEAD.replace("warmup(epochs=1) |> cosine", "exponential") + RATES)
    whole = r2d2c.train(spec, out=tmp_path / "whole")
    r2d2c.train(spec, out=tmp_path / "run", epochs=2)
    run = r2d2c.train(resume=tmp_path / "run", epochs=3)
    one, two = (load_checkpoint(r.folder / "checkpoints" / "last.safetensors") for r in (whole, run))
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name]), name
