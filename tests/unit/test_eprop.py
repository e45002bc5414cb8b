"""e-prop: gradients forward in time by eligibility traces, against hand-written traces and full backpropagation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c.diagnostics import CompileError
from r2d2c.emit import emit_python
from r2d2c.model import Model
from r2d2c.sampling import random_batch
from tests.unit.loop_oracle import Params, batch, compare, compiled, spec

SPIKING = """
cells(x):
  over: T
  each: {xt: x}
  carry:
    v:
      value: f32[B, H] = zeros
      credit: eprop
    z:
      value: f32[B, H] = zeros
      credit: local
  body: |
    v, z = lif(v, linear(xt, H, name=into) + linear(z, H, bias=false, name=back), decay=0.8, threshold=0.6)
"""
# A rate unit: a leaky state, and what others see of it.
LEAKY = SPIKING.replace(SPIKING[SPIKING.index("    v, z = ") :], "") + (
    "    v = 0.8 * v + linear(xt, H, name=into) + linear(z, H, bias=false, name=back)\n    z = tanh(v)\n"
)
SPEC = """
r2d2c: 1
dims: {{H: 6}}
inputs: {{x: "f32[B, T, 5]"}}
targets: {{y: "f32[B, T, 3]"}}
loops:
{loop}
tasks:
  net:
    behavior: |
      r = cells(x)
      z = r.z.steps
      out = linear(z, 3)
    distance: mse(out, y)
outputs: {{out: net.out}}
"""


def model_of(loop: str) -> Model:
    text = SPEC.format(loop="\n".join(f"  {line}" for line in loop.strip("\n").splitlines()))
    return compiled(text)


def data(steps: int, size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, steps, 5, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randn(size, steps, 3, generator=generator, dtype=torch.float64)}


class Spike(torch.autograd.Function):
    """The surrogate gradient by hand: 0.3 max(0, 1 - |v - 0.6| / 0.6)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0.6).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        (v,) = ctx.saved_tensors
        return given[0] * 0.3 * (1 - (v - 0.6).abs() / 0.6).clamp(min=0)


def spiking(v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    u = 0.8 * v + current
    z = Spike.apply(u)
    return u - 0.6 * z.detach(), z


def leaky(v: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    v = 0.8 * v + current
    return v, torch.tanh(v)


def run(
    p: Params, x: Tensor, cell: Any, recurrent: bool = True, own: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """What a layer gives, [B, T, H], and its z. recurrent: whether gradients go through other neurons."""
    v = z = x.new_zeros(len(x), 6)
    zs = []
    for xt in x.unbind(1):
        seen = z if recurrent else z.detach()
        v, z = cell(
            v if own else v.detach(), p.linear("cells.into", xt) + F.linear(seen, p["cells.back.weight"])
        )
        zs.append(z)
    return torch.stack(zs, 1), zs


def leaves(model: Model) -> Params:
    return Params({name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()})


@pytest.mark.parametrize(("loop", "cell"), [(SPIKING, spiking), (LEAKY, leaky)], ids=["spiking", "leaky"])
def test_with_the_exact_learning_signal_it_is_backpropagation_through_time(loop: str, cell: Any) -> None:
    """dE/dW = Σ L e, with L the total derivative of the loss by every z: then nothing is left out."""
    given = data(9)
    model = model_of(loop)
    p = leaves(model)
    zs, each = run(p, given["x"], cell)
    for z in each:
        z.retain_grad()
    F.mse_loss(p.linear("net.out.linear", zs), given["y"]).backward()
    exact = torch.stack([z.grad for z in each], 1)
    # The same loop in a model whose loss hands exactly this to z.
    signal = SPEC.replace("y: ", "signal: ").replace("3]", "H]").replace("out = linear(z, 3)", "out = z")
    text = signal.replace("distance: mse(out, y)", "distance: sum(out * signal)")
    mine = compiled(text.format(loop="\n".join(f"  {line}" for line in loop.strip("\n").splitlines())))
    mine.load_state_dict({k: v for k, v in model.state_dict().items() if k in mine.state_dict()})
    mine.learn(x=given["x"], signal=exact)
    assert float(sum(z.detach().sum() for z in each)) != 0
    for name, parameter in mine.named_parameters():
        gradient = p[name].grad
        assert float(gradient.abs().max()) > 1e-3, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("loop", "cell"), [(SPIKING, spiking), (LEAKY, leaky)], ids=["spiking", "leaky"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_with_the_symmetric_learning_signal_only_the_way_through_other_neurons_is_left_out(
    loop: str, cell: Any, steps: int
) -> None:
    model, given = model_of(loop), data(steps)
    p = leaves(model)
    zs, _ = run(p, given["x"], cell, recurrent=False)
    F.mse_loss(p.linear("net.out.linear", zs), given["y"]).backward()
    model.learn(**given)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=0, atol=1e-12)


# Two states of a neuron, initial states and a decay of its own that are learned, and a readout inside of the step.
ADAPTIVE = """
refine(data):
  repeat: depth
  carry:
    v:
      value: f32[B, S] = learned
      credit: eprop
    a:
      value: f32[B, S] = learned
      credit: eprop
  body: |
    seen = concat(tanh(v), data)
    decay = sigmoid(learned(S, name=slow))
    a = decay * a + 0.3 * tanh(v)
    v = tanh(decay * v - a + linear(seen, S, name=read))
    say = linear(v, S, name=say)
"""


def adaptive(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
    v, a = (p[f"refine.{name}.initial"].expand(6, 4) for name in "va")
    decay, total = torch.sigmoid(p["refine.slow.value"]), torch.zeros(6, 4, dtype=torch.float64)
    for _ in range(steps):
        seen = torch.cat([torch.tanh(v.detach()), given["x"]], -1)
        a = decay * a + 0.3 * torch.tanh(v)
        v = torch.tanh(decay * v - a + p.linear("refine.read", seen))
        total = total + p.linear("refine.say", v)
    return total


def test_several_states_of_a_neuron_and_all_that_it_can_learn() -> None:
    model = compiled(spec(ADAPTIVE, behavior="r = refine(x)\nout = sum(r.say.steps, axes=1)"))
    for depth in (1, 2, 3, 7):
        p = compare(model, adaptive, batch(), depth)
        assert all(float(value.grad.abs().max()) > 1e-6 for value in p.values()), depth


LSTM = """
refine(data):
  repeat: depth
  carry:
    c:
      value: f32[B, S] = zeros
      credit: eprop
    h:
      value: f32[B, S] = zeros
      credit: eprop
  body: |
    seen = concat(data, h)
    i = sigmoid(linear(seen, S, name=i))
    f = sigmoid(linear(seen, S, name=f))
    o = sigmoid(linear(seen, S, name=o))
    c = f * c + i * tanh(linear(seen, S, name=g))
    h = o * tanh(c)
"""


def lstm(p: Params, given: dict[str, Tensor], steps: int) -> Tensor:
    c = h = given["x"].new_zeros(6, 4)
    for _ in range(steps):
        seen = torch.cat([given["x"], h.detach()], -1)
        i, f, o = (torch.sigmoid(p.linear(f"refine.{name}", seen)) for name in "ifo")
        c = f * c + i * torch.tanh(p.linear("refine.g", seen))
        h = o * torch.tanh(c)
    return h


def test_lstm() -> None:
    model = compiled(spec(LSTM, behavior="r = refine(x)\nout = r.h"))
    for depth in (1, 2, 5):
        compare(model, lstm, batch(), depth)


# The second layer reads what the first one gives at the same step, the first one what the second one was before.
TWO = """
refine(data):
  repeat: depth
  carry:
    u:
      value: f32[B, S] = zeros
      credit: eprop
    v:
      value: f32[B, 3] = zeros
      credit: eprop
  body: |
    u = 0.7 * u + tanh(linear(data, S, name=one) + linear(tanh(v), S, name=back))
    v = 0.6 * v + linear(tanh(u), 3, name=two)
    out = linear(v, S, name=say)
"""


def test_two_layers_of_neurons() -> None:
    """What layer one sends on over v of layer two is that of the same step: the trace of v is for its own weights."""
    model = compiled(spec(TWO, behavior="r = refine(x)\nout = sum(r.out.steps, axes=1)"))
    depth, given = 5, batch()
    p = leaves(model)
    # By hand: the weights of layer two by all of v's past, those of layer one only by what v learns of each step.
    u, v, alone = given["x"].new_zeros(6, 4), given["x"].new_zeros(6, 3), given["x"].new_zeros(6, 3)
    mine = upper = given["x"].new_zeros(6, 4)
    for _ in range(depth):
        back = p.linear("refine.back", torch.tanh(v.detach()))
        u = 0.7 * u + torch.tanh(p.linear("refine.one", given["x"]) + back)
        alone = 0.6 * alone + p.linear("refine.two", torch.tanh(u.detach()))
        v = 0.6 * v.detach() + p.linear("refine.two", torch.tanh(u))
        mine = mine + p.linear("refine.say", v)
        upper = upper + p.linear("refine.say", alone)
    lower = ["refine.one.weight", "refine.one.bias", "refine.back.weight", "refine.back.bias"]
    rest = [name for name in p if name not in lower]
    wanted = dict(
        zip(lower, torch.autograd.grad(F.mse_loss(mine, given["y"]), [p[n] for n in lower]), strict=True)
    )
    wanted |= zip(rest, torch.autograd.grad(F.mse_loss(upper, given["y"]), [p[n] for n in rest]), strict=True)
    model.learn(**given, depth=depth)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=0, atol=1e-12, msg=name)


ENCODED = """
r2d2c: 1
dims: {H: 6}
inputs: {x: "f32[B, T, 5]"}
targets: {y: "f32[B, T, 3]"}
loops:
LOOP
tasks:
  encode:
    behavior: h = tanh(linear(x, 5))
  net:
    behavior: |
      r = cells(encode.h)
      z = r.z.steps
  read:
    behavior: out = linear(net.z, 3)
    distance: mse(out, y)
links:
  net.z -> read: {credit: CREDIT}
outputs: {out: read.out}
"""


def encoded(credit: str) -> Model:
    loop = "\n".join(f"  {line}" for line in LEAKY.strip("\n").splitlines())
    return compiled(ENCODED.replace("LOOP", loop).replace("CREDIT", credit))


def test_what_goes_into_the_loop_learns_from_its_own_step() -> None:
    model, given = encoded("backprop"), data(6)
    p = leaves(model)
    h = torch.tanh(p.linear("encode.h.linear", given["x"]))
    for own, names in ((True, ["cells", "read"]), (False, ["encode"])):
        zs, _ = run(p, h if not own else h.detach(), leaky, recurrent=False, own=own)
        mine = [p[name] for name in p if name.partition(".")[0] in names]
        loss = F.mse_loss(p.linear("read.out.linear", zs), given["y"])
        for parameter, gradient in zip(mine, torch.autograd.grad(loss, mine), strict=True):
            parameter.grad = gradient
    model.learn(**given)
    for name, parameter in model.named_parameters():
        assert float(p[name].grad.abs().max()) > 1e-6, name
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=0, atol=1e-12, msg=name)


def test_random_feedback() -> None:
    """Broadcast by a fixed matrix: the rule of the link above says so, and the traces do not change."""
    model, given = encoded("feedback"), data(6)
    p = leaves(model)
    fixed = dict(model.named_buffers()) | dict(model.named_parameters())
    matrix = next(value for name, value in fixed.items() if "feedback" in name)
    assert matrix.shape == p["read.out.linear.weight"].shape
    h = torch.tanh(p.linear("encode.h.linear", given["x"])).detach()
    zs, _ = run(p, h, leaky, recurrent=False)
    out = p.linear("read.out.linear", zs).detach()
    signal = 2 * (out - given["y"]) / out.numel() @ matrix
    mine = [p[name] for name in p if name.startswith("cells")]
    model.learn(**given)
    wanted = torch.autograd.grad(zs, mine, signal)
    grads = [q.grad for name, q in model.named_parameters() if name.startswith("cells")]
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def stored(model: Model, depth: int) -> int:
    """The most numbers that autograd keeps at any moment of a learning pass."""
    now = most = 0

    class Kept:
        def __init__(self, value: Tensor) -> None:
            nonlocal now, most
            self.value = value.detach()  # an output of the op that keeps it would keep that op
            now += value.numel()
            most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            now -= self.value.numel()

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        model.learn(**batch(), depth=depth)
    return most


def test_nothing_is_stored_over_the_steps() -> None:
    behavior = "r = refine(x)\nout = r.v"
    model = compiled(spec(ADAPTIVE, behavior=behavior))
    assert stored(model, 2) == stored(model, 4) == stored(model, 8)
    plain = compiled(spec(ADAPTIVE.replace("eprop", "backprop"), behavior=behavior))
    assert stored(plain, 8) > 3 * stored(plain, 2)


def test_random_ops_are_drawn_again_alike() -> None:
    loop = LEAKY.replace("    z = tanh(v)", "    z = dropout(tanh(v), 0.5)")
    """Of one step the gradient is that of backpropagation, so what was dropped is dropped again."""
    model, given = model_of(loop), data(1)
    plain = model_of(loop.replace("eprop", "backprop"))
    one, other = model.learn(**given), plain.learn(**given)
    torch.testing.assert_close(one.losses["net"], other.losses["net"], rtol=0, atol=1e-12)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    exact, given = model_of(LEAKY), data(5)
    exact.learn(**given)
    model = model_of(LEAKY).to(dtype)
    model.learn(**{name: value.to(dtype) for name, value in given.items()})
    for mine, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert mine.grad.dtype == dtype
        near = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=near)


def test_a_spiking_neuron() -> None:
    """Decay, spike, reset; the slope of a spike and a reset that is a constant, at hand-picked potentials."""
    text = """
r2d2c: 1
inputs: {v: "f64[B, 5]", i: "f64[B, 5]"}
targets: {y: "f64[B, 5]", w: "f64[B, 5]"}
tasks:
  cell:
    behavior: |
      u = v * learned(5)
      after, z = lif(u, i, decay=0.5, threshold=2.0, dampening=0.4)
    distance: sum(z * y) + sum(after * w)
outputs: {z: cell.z, after: cell.after}
"""
    model = r2d2c.compile(r2d2c.loads(text), backend="eager").double()
    (scale,) = model.parameters()
    with torch.no_grad():
        scale.fill_(1.0)
    v = torch.tensor([[0.0, 2.0, 4.0, 1.0, -8.0]], dtype=torch.float64)
    i = torch.tensor([[0.0, 0.5, 0.0, 3.0, 0.0]], dtype=torch.float64)
    potential = torch.tensor([[0.0, 1.5, 2.0, 3.5, -4.0]], dtype=torch.float64)
    found = model(v=v, i=i)
    assert torch.equal(found["z"], torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]], dtype=torch.float64))
    assert torch.equal(found["after"], potential - 2.0 * found["z"])
    slope = 0.4 * torch.tensor([[0.0, 0.75, 1.0, 0.25, 0.0]], dtype=torch.float64)
    for y, w in ((1.0, 0.0), (0.0, 1.0)):
        scale.grad = None
        step = model.learn(v=v, i=i, y=torch.full_like(v, y), w=torch.full_like(v, w))
        assert torch.equal(step.outputs["z"], found["z"])
        torch.testing.assert_close(scale.grad, (0.5 * v * (y * slope + w))[0], rtol=0, atol=1e-12)


def test_a_file_of_torch_alone_does_not_hold_it() -> None:
    with pytest.raises(CompileError) as error:
        emit_python(model_of(LEAKY))
    assert [d.code for d in error.value.diagnostics] == ["E567"]
    assert "eligibility" in str(error.value)
    assert "def run_cells" in emit_python(model_of(LEAKY.replace("eprop", "backprop")))


PAGE = Path(__file__).parents[2] / "docs" / "eprop.md"


def specs_of_the_page() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_a_spec_of_the_page_learns(number: int) -> None:
    checked = r2d2c.loads(specs_of_the_page()[number])
    assert not checked.diagnostics, [str(d) for d in checked.diagnostics]
    model = r2d2c.compile(checked, backend="eager")
    given = random_batch(checked.graph)
    model.learn(**given)
    assert all(p.grad is not None for name, p in model.named_parameters())


def pulses(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Which of two inputs is strong at the first three steps, beside nine that do not matter; at the end a cue."""
    y = torch.randint(2, (count,), generator=generator)
    x = 0.3 * torch.randn(count, 20, 12, generator=generator)
    x[:, :3, 2:11] += 1.5 * torch.randn(count, 1, 9, generator=generator)
    x[:, :, 11] = 0
    x[torch.arange(count), :3, y] += 1.5
    x[:, 15:, 11] = 2.0
    return {"x": x, "y": y}


def right(credit: str) -> float:
    """How often the net of the page is right after 150 batches."""
    model = r2d2c.compile(
        r2d2c.loads(specs_of_the_page()[0].replace("credit: eprop", f"credit: {credit}")), backend="eager"
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        model.learn(**pulses(32, generator))
        optimizer.step()
    given = pulses(1000, generator)
    return float((model(x=given["x"])["logits"].argmax(1) == given["y"]).double().mean())


def test_it_bridges_a_delay_that_single_steps_cannot() -> None:
    assert right("eprop") >= 0.95
    assert right("local") <= 0.75
