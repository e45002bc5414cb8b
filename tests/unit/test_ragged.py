"""Sequences of different lengths in a batch: a memory gives the same with padding and without."""

import torch

import r2d2c

SPEC = """\
r2d2c: 1
model: ragged
dims: {V: 9, N: 8, S: 16}
inputs:
  x: i64[B, T]
  length: i64[B]
targets:
  y: i64[B]
memories:
  m:
    slots: 3
    fields: {state: "f32[S]", token: i64, surprise: f32}
    each_slot: rep = tanh(linear(state, S) + embedding(token, V, S))
loops:
  read(tokens):
    over: T
    each: {token: tokens}
    carry:
      last: f32[B, S] = zeros
      guess: f32[B, V] = zeros
    body: |
      m = write(m, state=last, token=token, surprise=missed(guess, token))
      last = stop(m.newest.rep)
      seen = concat(flatten(by_age(m.rep, m.age)), flatten(bits(by_age(m.age, m.age), 5)))
      guess = softmax(linear(stop(seen), V, frozen=true))
tasks:
  recall:
    behavior: |
      r = read(x)
      logits = linear(read_slot(r.seen.steps, length - 1), N)
    distance: cross_entropy(logits, y)
outputs:
  logits: recall.logits
"""


def test_a_memory_asked_at_the_last_step_of_each_sample_is_the_same_with_padding_and_without() -> None:
    checked = r2d2c.loads(SPEC)
    assert not [d for d in checked.diagnostics if d.severity == "error"]
    model = r2d2c.compile(checked).double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(9, (3, 10), generator=generator), torch.tensor([1, 2, 3])
    length = torch.tensor([10, 6, 4])
    together = model(x=x, length=length)["logits"]
    alone = [{"x": x[i : i + 1, :n], "length": length[i : i + 1]} for i, n in enumerate(length.tolist())]
    torch.testing.assert_close(together, torch.cat([model(**one)["logits"] for one in alone]))
    model.learn(x=x, length=length, y=y)
    padded = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert padded
    model.zero_grad()
    for i, one in enumerate(alone):
        model.learn(**one, y=y[i : i + 1])
    for name, p in model.named_parameters():
        if name in padded:
            torch.testing.assert_close(padded[name], p.grad / 3)
