"""Optimizers and schedules: the literal tables against torch, and the checks of arguments."""

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.optimizers import (
    COUNTERS,
    OPTIMIZERS,
    RESERVED,
    OptimizerRecord,
    build_optimizer,
    check_optimizer,
)
from r2d2c.train.schedules import SCHEDULES, build_schedule, check_schedule

BY_NAME = {record.name: record for record in OPTIMIZERS}


def said(name: str, arguments: dict[str, Any]) -> list[str]:
    sink = Sink()
    assert check_optimizer(name, arguments, sink) is None
    return [f"{d.code}: {d.message}" for d in sink.diagnostics]


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
def test_the_table_is_what_torch_has(record: OptimizerRecord) -> None:
    cls = getattr(torch.optim, record.torch_class)
    parameters = inspect.signature(cls).parameters
    assert record.name == record.torch_class.lower()
    assert dict(record.arguments) == {
        name: parameter.default for name, parameter in parameters.items() if name not in RESERVED
    }
    assert record.fused == ("fused" in parameters)


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
def test_defaults_pass_the_checks_and_build(record: OptimizerRecord) -> None:
    sink = Sink()
    assert check_optimizer(record.name, record.arguments, sink) is record, sink.diagnostics
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = build_optimizer(record, {**record.arguments}, [parameter])
    parameter.grad = torch.ones(3, 3)
    optimizer.step()
    for key, value in optimizer.state[parameter].items():
        if isinstance(value, torch.Tensor) and record.shaped:
            assert value.shape == (() if key in COUNTERS else (3, 3)), key
    assert bool(torch.isfinite(parameter).all())
    assert not torch.equal(parameter, torch.ones(3, 3))


def test_every_optimizer_of_torch_that_takes_gradients_is_there() -> None:
    skipped = {"Optimizer", "LBFGS", "SparseAdam"}
    classes = {
        name
        for name in dir(torch.optim)
        if isinstance(getattr(torch.optim, name), type)
        and issubclass(getattr(torch.optim, name), torch.optim.Optimizer)
    }
    assert classes - skipped == {record.torch_class for record in OPTIMIZERS}


def test_unknown_names_and_arguments() -> None:
    sink = Sink()
    assert check_optimizer("Adm", {}, sink) is None
    assert check_optimizer("adam", {"momentum": 0.9, "learning_rate": 1}, sink) is None
    assert [str(d) for d in sink.diagnostics] == [
        "error[E530]: there is no optimizer `Adm`",
        "error[E531]: optimizer `adam` has no argument `momentum`",
        "error[E531]: optimizer `adam` has no argument `learning_rate`",
    ]
    first, second, _ = sink.diagnostics
    assert first.fix is not None
    assert first.fix.text == "did you mean `adam`?"
    assert second.notes == (
        "its arguments: lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay",
    )
    assert said("adam", {"fused": True}) == ["E531: `fused` of optimizer `adam` is chosen by r2d2c"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adam", {"lr": -1}, "argument `lr` of optimizer `adam` must not be negative, not -1"),
        ("adam", {"lr": "fast"}, "argument `lr` of optimizer `adam` must be a number, not 'fast'"),
        ("adam", {"lr": float("nan")}, "argument `lr` of optimizer `adam` must be a number, not nan"),
        ("adam", {"lr": True}, "argument `lr` of optimizer `adam` must be a number, not True"),
        (
            "adam",
            {"betas": 0.9},
            "argument `betas` of optimizer `adam` must be 2 numbers in parentheses, not 0.9",
        ),
        ("sgd", {"nesterov": 1}, "argument `nesterov` of optimizer `sgd` must be true or false, not 1"),
        ("muon", {"adjust_lr_fn": 3}, "argument `adjust_lr_fn` of optimizer `muon` must be a name, not 3"),
        (
            "muon",
            {"ns_steps": 1.5},
            "argument `ns_steps` of optimizer `muon` must be a whole number, not 1.5",
        ),
    ],
)
def test_bad_values(name: str, arguments: dict[str, Any], message: str) -> None:
    assert said(name, arguments) == [f"E532: {message}"]


def test_what_only_torch_knows_is_a_diagnostic_too() -> None:
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    with pytest.raises(CompileError) as caught:
        build_optimizer(BY_NAME["adam"], {"betas": (1.5, 0.9)}, [weight])
    assert str(caught.value.diagnostics[0]) == (
        "error[E532]: optimizer `adam`: Invalid beta parameter at index 0: 1.5"
    )
    with pytest.raises(CompileError) as caught:
        build_optimizer(BY_NAME["sgd"], {"nesterov": True}, [weight])
    assert caught.value.diagnostics[0].code == "E532"
    with pytest.raises(CompileError) as caught:
        build_optimizer(BY_NAME["muon"], {}, [weight, bias])
    assert str(caught.value.diagnostics[0]) == (
        "error[E534]: optimizer `muon` trains only matrices, one parameter has shape [2]"
    )
    groups: list[Any] = [{"params": [weight], "weight_decay": 0.0}, {"params": [bias], "lr": 0.1}]
    assert len(build_optimizer(BY_NAME["adamw"], {"betas": [0.8, 0.9]}, groups).param_groups) == 2


def test_the_checks_need_no_torch() -> None:
    script = (
        "import sys; from r2d2c.diagnostics import Sink; import r2d2c.train.data, r2d2c.train.metrics\n"
        "from r2d2c.train.optimizers import check_optimizer; from r2d2c.train.schedules import check_schedule\n"
        "import r2d2c.train.run_folder, r2d2c.train.curves, r2d2c.train.flat\n"
        "check_optimizer('adm', {}, Sink()); check_schedule([('cosin', {})], Sink())\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'matplotlib', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Schedules


def rates(
    parts: list[tuple[str, dict[str, Any]]], total: int, unit: int = 1, resume_at: int | None = None
) -> list[float]:
    """The learning rate of every step; with ``resume_at`` through JSON and new objects halfway."""

    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        return optimizer, build_schedule(optimizer, parts, total=total, unit=unit)

    optimizer, schedule = make()
    seen = []
    for step in range(total):
        if step == resume_at:
            state, rate = json.loads(json.dumps(schedule.state_dict())), optimizer.param_groups[0]["lr"]
            optimizer, schedule = make()
            schedule.load_state_dict(state)
            optimizer.param_groups[0]["lr"] = rate
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_shapes_of_schedules() -> None:
    assert rates([("linear", {})], 5) == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    assert rates([("step", {"every": 2, "gamma": 0.1})], 5) == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    assert rates([("exponential", {"gamma": 0.5})], 3) == pytest.approx([0.5, 0.25, 0.125])
    assert rates([("exponential", {"gamma": 0.25})], 3, unit=2) == pytest.approx([0.5, 0.25, 0.125])
    cosine = rates([("cosine", {"minimum": 0.1})], 4)
    assert cosine[0] == 0.5
    assert cosine[2] == pytest.approx(0.3)
    warm = rates([("warmup", {"epochs": 2, "start": 0.5}), ("constant", {})], 5)
    assert warm == pytest.approx([0.25, 0.375, 0.5, 0.5, 0.5])
    assert rates([("warmup", {"epochs": 1}), ("linear", {})], 6, unit=2)[2:] == pytest.approx(
        [0.5, 0.375, 0.25, 0.125]
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    assert build_schedule(optimizer, [], total=3) is None
    assert build_schedule(optimizer, [("constant", {})], total=3) is None


@pytest.mark.parametrize(
    "name",
    [schedule.name for schedule in SCHEDULES if schedule.name not in ("constant", "warmup", "plateau")],
)
@pytest.mark.parametrize("warm", [False, True])
def test_schedules_resume_exactly(name: str, warm: bool) -> None:
    parts: list[tuple[str, dict[str, Any]]] = [("warmup", {"epochs": 4})] if warm else []
    parts.append((name, {}))
    whole = rates(parts, 12)
    for at in (1, 3, 4, 5, 9):
        assert rates(parts, 12, resume_at=at) == whole


def test_bad_schedules() -> None:
    sink = Sink()
    assert check_schedule([("warmup", {"epochs": 3}), ("cosine", {"minimum": 1e-5})], sink)
    assert check_schedule([], sink)
    assert not sink.diagnostics
    bad: list[list[tuple[str, dict[str, Any]]]] = [
        [("cosin", {})],
        [("step", {"evry": 3})],
        [("step", {"every": 0})],
        [("step", {"every": 1.5})],
        [("exponential", {"gamma": 1.5})],
        [("warmup", {})],
        [("cosine", {}), ("warmup", {})],
    ]
    for parts in bad:
        assert not check_schedule(parts, sink)
    assert [f"{d.code}: {d.message}" for d in sink.diagnostics] == [
        "E533: there is no schedule `cosin`",
        "E531: schedule `step` has no argument `evry`",
        "E532: argument `every` of schedule `step` must be at least 1, not 0",
        "E532: argument `every` of schedule `step` must be a whole number, not 1.5",
        "E532: argument `gamma` of schedule `exponential` must lie in 0 … 1 (not 0), not 1.5",
        "E533: schedule `warmup` cannot stand at place 1 of 1",
        "E533: schedule `cosine` cannot stand at place 1 of 2",
        "E533: schedule `warmup` cannot stand at place 2 of 2",
    ]
