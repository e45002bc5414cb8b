"""Diagnostics 553-556: the state of a model, and sequences that are learned in parts."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

STATE: tuple[Entry, ...] = (
    Entry(
        "E553",
        "a stateful loop where its state cannot be kept",
        """\
What a stateful loop carries goes in with a call of the model and comes out of it. So there is one place where
the loop runs: in the behavior of a task, once. Inside of a block, of another loop or of a representative it
would run several times in a call, or not at all when the model is used.

    behavior: |
      r = read(x)
      s = read(y)          # a second run: which one is the state of?
    behavior: r = read(x)""",
    ),
    Entry(
        "E554",
        "a carry that cannot be state",
        """\
The state has one entry a sample, so that samples can be told apart, and the same size in every call. A carry of a
stateful loop therefore has the batch `B` as its first axis and, behind it, sizes that are known.

    carry:
      h: f32[S, B] = zeros
    carry:
      h: f32[B, S] = zeros""",
    ),
    Entry(
        "E555",
        "a name that the state needs",
        """\
A model with a stateful loop is called with `state` and `reset`, `model(x=x, state=s, reset=r)`, and gives `state`
beside its outputs. No input, target, dim or output of the spec can have one of these names.

    inputs:
      state: f32[B, S]
    inputs:
      start: f32[B, S]""",
    ),
    Entry(
        "E556",
        "sequences that cannot be learned in parts",
        """\
With `train.chunk: 64` a learning pass sees 64 steps of every sequence, and the state goes on to the next part. So
there has to be a stateful loop over the dim of the sequences, every other loop over that dim has to be stateful
too, and every target has that dim: a target of the last step alone says nothing about the parts before it.

    loops:
      read(x):
        over: T
    train:
      chunk: 64
    loops:
      read(x):
        over: T
        stateful: true
    train:
      chunk: 64""",
    ),
)
