"""The equations of learning (DESIGN §3) against hand-written PyTorch in float64, and merged against the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.credit.registry import rules
from r2d2c.model import Model
from r2d2c.passes.training import training_graph
from r2d2c.prove import prove
from r2d2c.sampling import random_batch

FRAME = """
r2d2c: 1
dims: {{D: 6, H: 5, C: 4}}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t1:
    behavior: h = x |> linear(H) |> tanh
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
    {t1}
  t2:
    behavior: logits = t1.h |> linear(C)
    distance: cross_entropy(logits, y)
    {t2}
links:
  t1.h -> t2: {{{link}}}
outputs:
  logits: t2.logits
"""


def chain(link: str, t1: str = "", t2: str = "") -> Model:
    return r2d2c.compile(r2d2c.loads(FRAME.format(link=link, t1=t1, t2=t2))).double()


def gradients(model: Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    model.zero_grad(set_to_none=True)
    model.learn(**batch)
    return {name: p.grad for name, p in model.named_parameters()}


def by_hand(model: Model, batch: dict[str, torch.Tensor], feed: bool, d, weights=(1.0, 1.0)):
    """θ1 from L1, θ2 from L2, φ from d(L1, L2) with ỹ a leaf: written out, one autograd call each."""
    p = dict(model.named_parameters())
    x, y = batch["x"], batch["y"]
    h = torch.tanh(F.linear(x, p["t1.h.linear.weight"], p["t1.h.linear.bias"]))
    code = F.one_hot(y, 4).double()
    r = torch.tanh(F.linear(code, p["t1.r.linear.weight"], p["t1.r.linear.bias"]))
    leaf = r.detach().requires_grad_()
    v = leaf if feed else h.detach()
    logits = F.linear(v, p["t2.logits.linear.weight"], p["t2.logits.linear.bias"])
    l1, l2 = weights[0] * F.mse_loss(h, leaf), weights[1] * F.cross_entropy(logits, y)
    found = {}
    for loss, prefix in ((l1, "t1.h"), (l2, "t2.logits")):
        names = [n for n in p if n.startswith(prefix)]
        found.update(
            zip(names, torch.autograd.grad(loss, [p[n] for n in names], retain_graph=True), strict=True)
        )
    a, b = l1.detach().requires_grad_(), l2.detach().requires_grad_()
    c1, c2 = torch.autograd.grad(d(a, b), [a, b], allow_unused=True)
    g = torch.zeros_like(leaf)
    for c, loss in ((c1, l1), (c2, l2)):
        part = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)[0]
        if c is not None and part is not None:
            g = g + c * part
    names = [n for n in p if n.startswith("t1.r")]
    found.update(zip(names, torch.autograd.grad(r, [p[n] for n in names], g), strict=True))
    return found


TEACH = [
    ("", lambda a, b: a + b),
    ("teach: t1 + t2", lambda a, b: a + b),
    ("teach: t2", lambda a, b: b + 0 * a),
    ("teach: t1", lambda a, b: a + 0 * b),
    ("teach: 0.5*t1 + 3*t2 - t2/4", lambda a, b: 0.5 * a + 2.75 * b),
    ("teach: t1 * t2", lambda a, b: a * b),
    ("teach: t1 / (1 + t2^2) + exp(t2)", lambda a, b: a / (1 + b**2) + torch.exp(b)),
]


@pytest.mark.parametrize(("teach", "d"), TEACH)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 2.5)])
def test_local_chain_with_feed_is_the_equations(teach, d, weights):
    model = chain("credit: local, feed: t1.r", f"weight: {weights[0]}\n    {teach}", f"weight: {weights[1]}")
    batch = random_batch(model.graph, seed=3, dtype=torch.float64)
    wanted = by_hand(model, batch, True, d, weights)
    for name, gradient in gradients(model, batch).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-12, msg=name)


def test_without_feed_the_upper_task_reads_the_lower_ones_value_as_a_constant():
    model = chain("credit: local")
    batch = random_batch(model.graph, seed=4, dtype=torch.float64)
    wanted = by_hand(model, batch, False, lambda a, b: a)
    for name, gradient in gradients(model, batch).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-12, msg=name)


def test_backprop_drops_the_lower_distance_and_is_end_to_end():
    model = chain("credit: backprop")
    batch = random_batch(model.graph, seed=5, dtype=torch.float64)
    found = gradients(model, batch)
    p = dict(model.named_parameters())
    h = torch.tanh(F.linear(batch["x"], p["t1.h.linear.weight"], p["t1.h.linear.bias"]))
    loss = F.cross_entropy(F.linear(h, p["t2.logits.linear.weight"], p["t2.logits.linear.bias"]), batch["y"])
    names = [n for n in p if not n.startswith("t1.r")]
    for name, gradient in zip(names, torch.autograd.grad(loss, [p[n] for n in names]), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    assert found["t1.r.linear.weight"] is None
    assert set(model.learn(**batch).losses) == {"t2"}


def test_keep_own_adds_the_lower_distance_to_backprop():
    model = chain("credit: backprop", "keep: own")
    batch = random_batch(model.graph, seed=6, dtype=torch.float64)
    found = gradients(model, batch)
    p = dict(model.named_parameters())
    h = torch.tanh(F.linear(batch["x"], p["t1.h.linear.weight"], p["t1.h.linear.bias"]))
    r = torch.tanh(
        F.linear(F.one_hot(batch["y"], 4).double(), p["t1.r.linear.weight"], p["t1.r.linear.bias"])
    )
    logits = F.linear(h, p["t2.logits.linear.weight"], p["t2.logits.linear.bias"])
    theta = [n for n in p if not n.startswith("t1.r")]
    total = F.mse_loss(h, r.detach()) + F.cross_entropy(logits, batch["y"])
    for name, gradient in zip(
        theta, torch.autograd.grad(total, [p[n] for n in theta], retain_graph=True), strict=True
    ):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    phi = [n for n in p if n.startswith("t1.r")]
    own = F.mse_loss(h.detach(), r)
    for name, gradient in zip(phi, torch.autograd.grad(own, [p[n] for n in phi]), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


LONGER = """
r2d2c: 1
dims: {H: 5, C: 4}
inputs:
  x: f32[B, 6]
targets:
  y: i64[B]
tasks:
  a:
    behavior: h = x |> linear(H) |> tanh
    representative: r = concat(b.r, one_hot(y, C)) |> linear(H) |> tanh
    distance: mse(h, r)
    teach: a + 0.5*b
  b:
    behavior: |
      h = a.h |> linear(H) |> tanh
      seen = linear(h, C)
    representative: |
      q = one_hot(y, C) |> linear(H)
      r = q |> tanh
    distance: mse(h, r) + 0.1*mse(h, q)
    weight: 2
  c:
    behavior: p = b.h |> linear(H) |> relu
  d:
    behavior: |
      s = a.h |> linear(H)
      logits = concat(c.p, s) |> linear(C)
    distance: cross_entropy(logits, y)
links:
  a.h -> b: {credit: local, feed: a.r}
  b.h -> c: {credit: local, feed: b.r}
  c.p -> d: {credit: backprop}
  a.h -> d: {credit: local}
losses:
  read:
    body: z = linear(b.h, C)
    value: cross_entropy(z, y)
    weight: 0.3
  size:
    value: mean(c.p^2)
    weight: 1e-2
outputs:
  logits: d.logits
"""


def definition_gradients(model: Model, batch):
    """The gradients of the node-by-node definition."""
    other = Model(model.spec).double()
    other.load_state_dict(model.state_dict())
    other.__dict__["_training_graph"] = training_graph(model.graph, model.spec.ops, rules(), merge=False)
    return gradients(other, batch)


@pytest.mark.parametrize(
    "text",
    [LONGER] + [FRAME.format(link="credit: local, feed: t1.r", t1=t, t2="weight: 2") for t, _ in TEACH],
)
def test_one_pass_equals_the_definition(text):
    model = r2d2c.compile(r2d2c.loads(text)).double()
    batch = random_batch(model.graph, seed=7, dtype=torch.float64)
    wanted = definition_gradients(model, batch)
    for name, gradient in gradients(model, batch).items():
        if wanted[name] is None:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-13, msg=name)


def test_a_longer_dag_by_hand():
    model = r2d2c.compile(r2d2c.loads(LONGER)).double()
    batch = random_batch(model.graph, seed=8, dtype=torch.float64)
    found = gradients(model, batch)
    p = dict(model.named_parameters())
    x, y = batch["x"], batch["y"]

    def lin(name, value):
        return F.linear(value, p[f"{name}.weight"], p[f"{name}.bias"])

    one = F.one_hot(y, 4).double()
    q = lin("b.q.linear", one)
    rb = torch.tanh(q)
    ra = torch.tanh(lin("a.r.linear", torch.cat([rb.detach(), one], -1)))
    la, lb, lq = ra.detach().requires_grad_(), rb.detach().requires_grad_(), q.detach().requires_grad_()
    ha = torch.tanh(lin("a.h.linear", x))
    hb = torch.tanh(lin("b.h.linear", la))
    cp = torch.relu(lin("c.p.linear", lb))
    s = lin("d.s.linear", ha.detach())
    logits = lin("d.logits.linear", torch.cat([cp, s], -1))
    losses = {
        "a": F.mse_loss(ha, la),
        "b": 2 * (F.mse_loss(hb, lb) + 0.1 * F.mse_loss(hb, lq)),
        "d": F.cross_entropy(logits, y),
        "read": 0.3 * F.cross_entropy(lin("read.z.linear", hb), y),
        "size": 1e-2 * (cp**2).mean(),
    }
    theta = [n for n in p if n.split(".")[1] not in ("r", "q") and not n.startswith("b.seen")]
    wanted = torch.autograd.grad(sum(losses.values()), [p[n] for n in theta], retain_graph=True)
    for name, gradient in zip(theta, wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    # a's representative is taught by a + 0.5 b; b's by everything that reaches it: its own, d and size.
    ga = torch.autograd.grad(losses["a"] + 0.5 * losses["b"], la, retain_graph=True)[0]
    own = losses["b"] + losses["d"] + losses["size"]
    gb, gq = torch.autograd.grad(own, [lb, lq], retain_graph=True)
    phi = [n for n in p if n.startswith("a.r")]
    for name, gradient in zip(phi, torch.autograd.grad(ra, [p[n] for n in phi], ga), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    phi = [n for n in p if n.startswith("b.q")]
    for name, gradient in zip(phi, torch.autograd.grad([rb, q], [p[n] for n in phi], [gb, gq]), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    assert found["b.seen.linear.weight"] is None


def test_wiring_of_the_longer_dag_is_proven():
    model = r2d2c.compile(r2d2c.loads(LONGER))
    proof = prove(model)
    assert proof.ok, [str(f) for f in proof.failures]
    wiring = model.wiring()
    teachers = {n: {loss for loss in wiring if wiring[loss][n]} for n in wiring["a"]}
    assert teachers["a.h.linear.weight"] == {"a"}
    assert teachers["a.r.linear.weight"] == {"a", "b"}
    assert teachers["b.h.linear.weight"] == {"b", "read"}
    assert teachers["b.q.linear.weight"] == {"b", "d", "size"}
    assert teachers["c.p.linear.weight"] == {"d", "size"}
    assert teachers["read.z.linear.weight"] == {"read"}
    assert teachers["b.seen.linear.weight"] == set()


def test_a_false_wiring_is_found_out():
    """The proof can fail: claim that a loss teaches what it does not, and the reverse."""
    model = r2d2c.compile(r2d2c.loads(LONGER))
    true = model.wiring()
    for loss, name, entry in (("d", "a.h.linear.weight", "gradient"), ("a", "a.h.linear.weight", None)):
        false = {k: dict(row) for k, row in true.items()}
        false[loss][name] = entry
        model.wiring = lambda false=false: false  # type: ignore[method-assign]
        proof = prove(model)
        assert [(f.loss, f.parameter) for f in proof.failures] == [(loss, name)]


def test_gradients_match_finite_differences():
    """End to end under backprop, every loss differentiated numerically in float64."""
    text = LONGER.replace("credit: local, feed: a.r", "credit: backprop").replace(
        "credit: local, feed: b.r", "credit: backprop"
    )
    text = text.replace("credit: local}", "credit: backprop}")
    model = r2d2c.compile(r2d2c.loads(text)).double()
    batch = random_batch(model.graph, seed=9, dtype=torch.float64)
    found = gradients(model, batch)
    weights = {name: loss.weight for name, loss in model.graph.losses.items()}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if found[name] is None:
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        totals = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign)
                totals.append(sum(weights[n] * v for n, v in model.losses(**batch).items()))
                parameter.add_(direction, alpha=-sign)
        numeric = (totals[0] - totals[1]) / 2e-6
        torch.testing.assert_close(numeric, (found[name] * direction).sum(), rtol=1e-5, atol=1e-8, msg=name)


def test_learn_accumulates_as_backward_does():
    model = chain("credit: local, feed: t1.r")
    batch = random_batch(model.graph, seed=10, dtype=torch.float64)
    once = {n: g.clone() for n, g in gradients(model, batch).items() if g is not None}
    model.learn(**batch)
    for name, gradient in once.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, 2 * gradient)


def test_visits_finish_every_parameter_once_and_allow_updates_in_between():
    model = r2d2c.compile(r2d2c.loads(LONGER)).double()
    other = r2d2c.compile(r2d2c.loads(LONGER)).double()
    batch = random_batch(model.graph, seed=11, dtype=torch.float64)
    model.learn(**batch)
    named, finished = dict(other.named_parameters()), []
    with_updates = {}
    for visit in other.visits(**batch):
        for name in visit.finished:
            finished.append(name)
            with_updates[name] = named[name].grad.clone()
            with torch.no_grad():
                named[name].sub_(named[name].grad)  # may change now: nothing later reads it
    taught = [n for n, p in model.named_parameters() if p.grad is not None]
    assert sorted(finished) == sorted(taught)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, with_updates[name]), name


def test_tasks_that_need_each_other_share_a_visit():
    text = LONGER.replace("a.h -> d: {credit: local}", "a.h -> d: {credit: backprop}").replace(
        "    teach: a + 0.5*b\n", "    keep: own\n"
    )
    model = r2d2c.compile(r2d2c.loads(text)).double()
    batch = random_batch(model.graph, seed=12, dtype=torch.float64)
    wanted = definition_gradients(model, batch)
    for name, gradient in gradients(model, batch).items():
        if wanted[name] is not None:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-13, msg=name)


def test_tied_and_frozen_parameters():
    text = """
r2d2c: 1
inputs:
  x: f32[B, 4]
tasks:
  up:
    behavior: h = x |> linear(3, name=enc, bias=false) |> tanh
    representative: r = x |> linear(3, frozen=true) |> tanh
    distance: mse(h, r)
  down:
    behavior: back = up.h |> linear(4, weight=transpose(up.enc.weight, 0, 1), bias=false)
    distance: mse(back, x)
links:
  up.h -> down: {credit: local}
outputs:
  back: down.back
"""
    model = r2d2c.compile(r2d2c.loads(text)).double()
    batch = random_batch(model.graph, seed=13, dtype=torch.float64)
    ((name, weight),) = model.named_parameters()
    assert name == "up.enc.weight"
    found = gradients(model, batch)[name]
    buffers = dict(model.named_buffers())
    h = torch.tanh(F.linear(batch["x"], weight))
    r = torch.tanh(F.linear(batch["x"], buffers["up.r.linear.weight"], buffers["up.r.linear.bias"]))
    total = F.mse_loss(h, r) + F.mse_loss(F.linear(h.detach(), weight.t()), batch["x"])
    torch.testing.assert_close(found, torch.autograd.grad(total, weight)[0])
    assert prove(model).ok


def test_trace_has_values_and_deltas_by_name():
    model = chain("credit: local, feed: t1.r")
    batch = random_batch(model.graph, seed=14, dtype=torch.float64)
    trace = model.trace(**batch)
    p = dict(model.named_parameters())
    h = torch.tanh(F.linear(batch["x"], p["t1.h.linear.weight"], p["t1.h.linear.bias"]))
    torch.testing.assert_close(trace.values["t1.h"], h)
    r = trace.values["t1.r"]
    torch.testing.assert_close(trace.deltas["t1.h"], 2 * (h - r) / h.numel())
    logits = trace.values["t2.logits"].clone().requires_grad_()
    torch.testing.assert_close(
        trace.deltas["t2.logits"], torch.autograd.grad(F.cross_entropy(logits, batch["y"]), logits)[0]
    )


def test_wrong_inputs_are_told_in_the_specs_words():
    model = chain("credit: local")
    with pytest.raises(TypeError, match=r"`x` is torch.float32 \[2, 3\], the spec says f32\[B, D=6\]"):
        model(x=torch.zeros(2, 3))
    with pytest.raises(TypeError, match="`x` is missing; there is no input `z`"):
        model(z=torch.zeros(2, 6))
    with pytest.raises(TypeError, match="`y` is missing"):
        model.learn(x=torch.zeros(2, 6))
