"""`model.trace` under credit rules: δ is what really reaches a value, by hand-written formulas."""

import pytest
import torch

import r2d2c

SPEC = """
r2d2c: 1
dims: {D: 4, H: 6, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  one:
    behavior: h = linear(x, H)
  two:
    behavior: h = one.h |> tanh |> linear(H) |> tanh
  three:
    behavior: logits = linear(two.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: three.logits
"""
RULES = (
    "backprop", "feedback", "feedback(variant=sign)", "direct", "direct(recompute=true)", "synthetic", "synthetic(labels=y, bootstrap=false)",
    "target", "target(difference=false)", "alternate", "predictive", "predictive(fixed=true)", "equilibrium",
    "equilibrium(symmetric=false)",
)  # fmt: skip


def build(credit: str, spec: str = SPEC) -> tuple[r2d2c.Model, dict[str, torch.Tensor]]:
    model = r2d2c.compile(r2d2c.loads(spec, credit=credit)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".synthetic" in name:  # it starts at zero
                parameter.normal_(0, 0.1, generator=generator)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    return model, {"x": x, "y": torch.randint(3, (5,), generator=generator)}


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def forward(model: r2d2c.Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values of the tasks and the error at the logits, by hand."""
    p = dict(model.named_parameters())
    h1 = batch["x"] @ p["one.h.linear.weight"].T + p["one.h.linear.bias"]
    h2 = torch.tanh(torch.tanh(h1) @ p["two.h.linear.weight"].T + p["two.h.linear.bias"])
    logits = h2 @ p["three.logits.linear.weight"].T + p["three.logits.linear.bias"]
    hot = torch.nn.functional.one_hot(batch["y"], 3)
    return {"h1": h1, "h2": h2, "logits": logits, "error": (torch.softmax(logits, 1) - hot) / 5}


@pytest.mark.parametrize("credit", RULES)
def test_delta_is_what_the_first_layer_learns_from(credit: str) -> None:
    model, batch = build(credit)
    trace = model.trace(**batch)
    assert all(p.grad is None for p in model.parameters())
    again = model.trace(**batch)
    model._step = 0
    model.learn(**batch)
    delta, grad = trace.deltas["one.h"], model.get_parameter("one.h.linear.weight").grad
    assert grad is not None and delta.abs().sum() > 0
    close(grad, delta.T @ batch["x"])
    close(again.deltas["one.h"], delta)


def test_backprop() -> None:
    model, batch = build("backprop")
    found, trace = forward(model, batch), model.trace(**batch)
    back = found["error"] @ model.get_parameter("three.logits.linear.weight")
    close(trace.values["two.h"], found["h2"])
    close(trace.deltas["three.logits"], found["error"])
    close(trace.deltas["two.h"], back)


def test_feedback() -> None:
    model, batch = build("feedback")
    found, trace, b = forward(model, batch), model.trace(**batch), dict(model.named_buffers())
    back2 = found["error"] @ b["three.logits.linear.feedback"]
    back1 = (back2 * (1 - found["h2"] ** 2)) @ b["two.h.linear.feedback"] * (1 - torch.tanh(found["h1"]) ** 2)
    close(trace.deltas["three.logits"], found["error"])
    close(trace.deltas["two.h"], back2)
    close(trace.deltas["one.h"], back1)


def test_direct() -> None:
    model, batch = build("direct")
    found, trace, b = forward(model, batch), model.trace(**batch), dict(model.named_buffers())
    close(trace.deltas["three.logits"], found["error"])
    for task in ("one", "two"):
        close(trace.deltas[f"{task}.h"], found["error"] @ b[f"{task}.direct.B"])


def test_synthetic() -> None:
    model, batch = build("synthetic(labels=y)")
    found, trace, p = forward(model, batch), model.trace(**batch), dict(model.named_parameters())
    hot = torch.nn.functional.one_hot(batch["y"], 3).double()
    for task, h in (("one", found["h1"]), ("two", found["h2"])):
        place = f"{task}.synthetic.predictor"
        guess = torch.cat([h, hot], 1) @ p[f"{place}.weight"].T + p[f"{place}.bias"]
        close(trace.deltas[f"{task}.h"], guess / 5)
    # What comes back to the link is what the predictor learns from.
    close(trace.deltas["two.h.leaf"], found["error"] @ p["three.logits.linear.weight"])


def test_target() -> None:
    model, batch = build("target(noise=0)")
    found, trace, p = forward(model, batch), model.trace(**batch), dict(model.named_parameters())

    def inverse(task: str, value: torch.Tensor) -> torch.Tensor:
        place = f"{task}.target.inverse"
        return value @ p[f"{place}.weight"].T + p[f"{place}.bias"]

    top = found["logits"] - 0.5 * 5 * found["error"]
    t2 = found["h2"] + inverse("two", top) - inverse("two", found["logits"])
    t1 = found["h1"] + inverse("one", t2) - inverse("one", found["h2"])
    close(trace.deltas["two.h"], (found["h2"] - t2) / 5)
    close(trace.deltas["one.h"], (found["h1"] - t1) / 5)


def test_a_value_that_learns_in_other_runs_only_has_their_sum() -> None:
    model, batch = build("predictive(steps=3)")
    trace = model.trace(**batch)
    copies = [d for name, d in trace.deltas.items() if name.startswith("two.h@")]
    assert copies
    close(trace.deltas["two.h"], sum(copies[1:], copies[0]))


def test_a_pass_changes_nothing() -> None:
    spec = SPEC.replace("one.h |> tanh |> linear(H) |> tanh", "one.h |> linear(H) |> batch_norm")
    for credit in ("backprop", "direct", "hebbian(variant=bcm)", "synthetic"):
        model, batch = build(credit, spec)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.trace(**batch)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters()) and model._step == 0


def test_hebbian_has_no_delta_below_the_link() -> None:
    model, batch = build("hebbian")
    deltas = model.trace(**batch).deltas
    assert "three.logits" in deltas and not {"one.h", "two.h"} & deltas.keys()


def test_a_representative_has_the_delta_that_teaches_it() -> None:
    model = r2d2c.compile("specs/tasks/two_tasks.yaml").double()
    batch = {"x": torch.randn(5, 64, dtype=torch.float64), "y": torch.randint(10, (5,))}
    trace = model.trace(**batch)
    parts = [delta for name, delta in trace.deltas.items() if name.startswith("encode.r.leaf")]
    close(trace.deltas["encode.r"], sum(parts[1:], parts[0]))
    model.learn(**batch)
    hot = torch.nn.functional.one_hot(batch["y"], 10).double()
    slope = trace.deltas["encode.r"] * (1 - trace.values["encode.r"] ** 2)
    grad = model.get_parameter("encode.r.linear.weight").grad
    assert grad is not None
    close(grad, slope.T @ hot)


def test_stopping_at_a_value_under_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[int] = []
    monkeypatch.setattr("builtins.breakpoint", lambda: stops.append(1))
    model, batch = build("synthetic")
    model.trace(breakpoints=("two.h",), **batch)
    assert stops == [1]
