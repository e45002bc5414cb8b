"""Specs whose losses, layers and rules couple the samples of a batch, or count them: by name."""

from __future__ import annotations

HEAD = """
r2d2c: 1
dims: {{D: 6, H: 5, C: 3}}
inputs: {{x: "f32[B, D]"}}
targets: {{y: "i64[B]"}}
"""
ONE = (
    HEAD
    + """
tasks:
  t1:
    behavior: h = x |> linear(H) |> tanh
    distance: {loss}
  out:
    behavior: logits = linear(t1.h, C)
    distance: cross_entropy(logits, y)
outputs: {{logits: out.logits}}
credit: local
"""
)
LOSSES = {
    "info_nce": "info_nce(h, linear(x, H))",
    "mean_squared": "square(mean(h))",
    "mean_times_batch": "mean(h) * B",
    "sum_over_batch": "sum(square(h)) / B",
    "sum": "mse(h, 0.5, reduction=sum)",
    "exp_of_mse": "exp(mse(h, 0.5))",
    "std": "mean(std(h, axes=0))",
    "largest": "mean(square(max(h, axes=0)))",
    "norm": "norm(h)",
    "logsumexp": "logsumexp(h)",
    "gram": "mean(square(matmul(transpose(h), h) / B))",
    "mask": "mse(h, 0.5, mask=mean(x, axes=1) > 0.0)",
    "learned_weights": "mse(h, 0.5, weights=sigmoid(mean(linear(x, H), axes=1)))",
    "masked_mean": "mean(square(masked_mean(h, mean(x, axes=1) > 0.0, axes=0)))",
    "numbers": "mse(h, unsqueeze(cast(arange(B), f32), 1) |> expand((B, H)))",
    "flipped": "mse(h, flip(h, axes=0) * 0.5)",
    "one_row_more": "mse(concat(h, full((1, H), 0.5), axis=0)[1:], h) + mean(square(concat(h, 2 * h[:1], axis=0)))",
    "joined": "mse(linear(concat(x, flip(x, axes=0), axis=0), H), 0.1)",
}
TWO = (
    HEAD
    + """
tasks:
  t1:
    behavior: |
      a = x |> linear(H)
      h = tanh(a - mean(a, axes=0, keep=true))
    distance: info_nce(h, linear(x, H))
  t2:
    behavior: g = t1.h |> linear(H) |> batch_norm |> tanh
    distance: mse(std(g, axes=0), 1.0)
  out:
    behavior: logits = linear(t2.g, C)
    distance: cross_entropy(logits, y) + 0.1 * norm(logits)
outputs: {{logits: out.logits}}
credit: {rule}
"""
)
RULES = [
    "backprop",
    "local",
    "feedback",
    "direct",
    "target",
    "predictive",
    "equilibrium",
    "synthetic",
    "alternate",
]
HEBBIAN = """
r2d2c: 1
dims: {D: 6, H: 5, C: 3}
inputs: {x: "f32[B, D]"}
targets: {y: "i64[B]"}
tasks:
  t1:
    behavior: |
      a = x |> linear(H)
      h = tanh(a - mean(a, axes=0, keep=true))
  out:
    behavior: logits = linear(t1.h, C)
    distance: cross_entropy(logits, y) + 0.1 * norm(logits)
outputs: {logits: out.logits}
credit: hebbian(variant=bcm)
"""
LOOP = """
r2d2c: 1
dims: {{H: 6}}
inputs: {{x: "f32[B, T, 5]", m: "bool[B, T]"}}
targets: {{y: "f32[B, T, 3]"}}
loops:
  cells(x):
    over: T
    each: {{xt: x}}
{options}
    carry:
      v: {carry}
      cost: f32[] = zeros
    body: |
      a = linear(xt, H) + linear(v, H, bias=false) {more}
      v = tanh(a)
      cost = 0.5 * cost + mse(v, 0.5)
tasks:
  net:
    behavior: |
      r = cells(x)
      out = linear(r.v.steps, 3)
    distance: mse(out, y, mask=m) + 0.1 * {cost}
outputs: {{out: net.out}}
"""
_CENTRED = "- mean(linear(v, H, name=centre), axes=0, keep=true)"
LOOPS = {
    "step": LOOP.format(options="", carry="f32[B, H] = zeros", more=_CENTRED, cost="r.cost"),
    "cost": LOOP.format(options="", carry="f32[B, H] = zeros", more="", cost="r.cost"),
    "squared_cost": LOOP.format(options="", carry="f32[B, H] = zeros", more="", cost="square(r.cost)"),
    "cost_read": LOOP.format(options="", carry="f32[B, H] = zeros", more="+ cost", cost="r.cost"),
    "recomputed": LOOP.format(
        options="    recompute: true", carry="f32[B, H] = zeros", more=_CENTRED, cost="r.cost"
    ),
    "truncated": LOOP.format(
        options="", carry="{value: 'f32[B, H] = zeros', credit: truncate(2)}", more=_CENTRED, cost="r.cost"
    ),
}
SPIKES = """
r2d2c: 1
dims: {H: 6}
inputs: {x: "f32[B, T, 5]", m: "f32[B, T]"}
targets: {y: "f32[B, T, 3]"}
loops:
  cells(x):
    over: T
    each: {xt: x}
    carry:
      v: {value: "f32[B, H] = zeros", credit: eprop}
      z: {value: "f32[B, H] = zeros", credit: local}
    body: |
      v, z = lif(v, linear(xt, H) + linear(z, H, bias=false), decay=0.8, threshold=0.6)
tasks:
  net:
    behavior: |
      r = cells(x)
      out = linear(r.z.steps, 3)
    distance: mse(out, y, mask=m)
outputs: {out: net.out}
"""
TIMES = """
r2d2c: 1
inputs: {x: "f32[B, T, 3]", drive: "f32[B, T, 2]"}
targets: {y: "f32[B, T, 1]"}
loops:
  cells(x, drive):
    over: T
    each: {xt: x, dt: drive}
    carry:
      v: f32[B, 2] = zeros
    body: |
      v, z = lif(v, 0.5 * linear(xt, 2, bias=false) + dt, decay=0)
tasks:
  net:
    behavior: |
      r = cells(x, drive)
      z = r.z.steps
  read:
    behavior: out = linear(net.z, 1)
    distance: mse(out, y)
links:
  net.z -> read: {credit: "hebbian(variant=stdp, plus=0.8, minus=0.5, tau_plus=4, tau_minus=7)"}
outputs: {out: read.out}
"""
COUPLED: dict[str, str] = {
    **{name: ONE.format(loss=loss) for name, loss in LOSSES.items()},
    **{f"rule_{rule}": TWO.format(rule=rule) for rule in RULES},
    **{f"loop_{name}": text for name, text in LOOPS.items()},
    "rule_hebbian": HEBBIAN,
    "eprop": SPIKES,
    "stdp": TIMES,
}
