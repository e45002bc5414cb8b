"""Small specs with loops of every kind, for tests of what walks and prints graphs."""

HEAD = """\
r2d2c: 1
model: looped
dims: {D: 6, S: 5, C: 3, depth: 1..5 = 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
"""
TAIL = """\
    distance: cross_entropy(out, y)
outputs:
  logits: t.out
train:
  data: digits
  metrics:
    - accuracy(logits, y)
"""

DEPTH = f"""\
{HEAD}loops:
  refine(data):
    repeat: depth
    carry:
      c: f32[B, S] = learned
      z: f32[B, S] = zeros
    body: |
      c = tanh(linear(data, S) + linear(c, S))
      z = z + linear(c, S)
      logits = linear(z, C)
tasks:
  t:
    behavior: |
      r = refine(x)
      out = r.logits
{TAIL}"""

TWICE = f"""\
{HEAD}loops:
  refine(data):
    repeat: depth
    carry:
      c:
        value: f32[B, S] = learned
        credit: truncate(2)
      z:
        value: f32[B, S] = zeros
        credit: local
    body: |
      c = tanh(linear(data, S) + linear(c, S))
      z = tanh(linear(z, S) * 0.5 + c)
      logits = linear(z, C)
tasks:
  t:
    behavior: |
      r = refine(x)
      s = refine(x * 2)
      out = r.logits + s.logits
{TAIL}"""

NESTED = f"""\
{HEAD}loops:
  inner(v):
    repeat: 2
    carry:
      u: f32[B, S] = v
    body: u = u + 0.5 * tanh(linear(u, S))
  outer(v):
    repeat: depth
    recompute: true
    carry:
      c: f32[B, S] = zeros
    widths:
      c: [2/5, 1]
    body: |
      c = tanh(linear(v, S) + linear(c, S))
      w = inner(c)
      logits = linear(w.u / step, C) |> dropout(0.2)
tasks:
  t:
    behavior: |
      r = outer(x)
      out = mean(r.logits.steps, axes=1)
{TAIL}"""

PER_STEP = f"""\
{HEAD}loops:
  refine(data):
    repeat: depth
    parameters: per_step
    carry:
      c: f32[B, S] = data
    body: c = tanh(linear(c, S)) |> dropout(0.2)
tasks:
  t:
    behavior: |
      r = refine(linear(x, S))
      out = linear(r.c, C)
{TAIL}"""

HALTING = f"""\
{HEAD.replace(", depth: 1..5 = 3", "")}loops:
  think(data):
    until: p
    max: 5
    epsilon: 0.1
    carry:
      c: f32[B, S] = learned
    body: |
      c = tanh(linear(data, S) + linear(c, S))
      p = sigmoid(linear(c, 1)) |> reshape(B)
      logits = linear(c, C)
tasks:
  t:
    behavior: |
      r = think(x)
      out = r.logits.mean
      last = r.c.steps
      count = r.count
{
    TAIL.replace(
        "cross_entropy(out, y)", "cross_entropy(out, y) + 0.01 * mean(r.ponder) + mean(last ^ 2)"
    ).replace("t.out", "t.out" + chr(10) + "  count: t.count")
}"""

OVER = """\
r2d2c: 1
model: looped
dims: {S: 5, C: 3}
inputs:
  x: f32[B, T, 4]
targets:
  y: i64[B]
loops:
  read(x):
    over: T
    each: {xt: x}
    carry:
      h:
        value: f32[B, S] = zeros
        credit: truncate(3)
    body: |
      h = tanh(linear(xt, S) + linear(h, S, bias=false)) |> dropout(0.1)
      v = linear(h, 2)
tasks:
  encode:
    behavior: |
      r = read(x)
      a = mean(r.v.steps, axes=1)
      h = r.h
    distance: mean(a ^ 2)
    keep: own
  classify:
    behavior: logits = linear(encode.h, C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: backprop}
outputs:
  logits: classify.logits
  a: encode.a
"""

SPECS = {
    "depth": DEPTH,
    "twice": TWICE,
    "nested": NESTED,
    "per_step": PER_STEP,
    "halting": HALTING,
    "over": OVER,
}
