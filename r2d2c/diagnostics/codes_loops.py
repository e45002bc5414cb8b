"""Loops: how often they run, their carries, and when samples halt."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

LOOPS: tuple[Entry, ...] = (
    Entry(
        "E260",
        "a default of a loop's parameter",
        """\
A loop has one instance, and its parameters are values that it is called with: each of them is given where the
loop is used.

    loops:
      refine(data, rate=0.5):
    loops:
      refine(data):""",
    ),
    Entry(
        "E261",
        "`each` in a loop that runs over nothing",
        """\
`each` names sequences of which a step reads one element, the first step the first one. So the loop has to run
over the dim that these sequences have. A value that is the same at every step is a parameter of the loop.

    read(x):
      repeat: 3
      each: {xt: x}
    read(x):
      over: T
      each: {xt: x}""",
    ),
    Entry(
        "E262",
        "a loop that does not say how often it runs, or says it twice",
        """\
A loop has exactly one of `repeat` (a number, or a dim such as `depth`), `over` (a dim of a sequence) and `until`
(a halting rule). `max` and `epsilon` belong to `until`.

    refine(data):
      repeat: 3
      max: 20
    refine(data):
      until: p
      max: 20""",
    ),
    Entry(
        "E263",
        "a halting rule without a limit",
        """\
A rule that is learned may say at any moment that no sample halts. `max` is the number of steps after which all do.

    think(data):
      until: p
    think(data):
      until: p
      max: 20""",
    ),
    Entry(
        "E264",
        "how often a loop runs is no number",
        """\
`repeat` and `max` are numbers from 1 on, or the name of a dim; `over` is the name of a dim; `epsilon` is a number
from 0 on and less than 1.

    repeat: data
    repeat: 3

    dims: {depth: 1..8 = 3}
    repeat: depth                    # an argument of the model: `model(x=x, depth=5)`""",
    ),
    Entry(
        "E265",
        "a credit that a carry cannot have",
        """\
The credit of a carry says what comes back over the edge from one step to the step before: everything (`backprop`,
the default), what comes from the last k steps (`truncate(k)`), what eligibility traces know (`eprop`, for the states of
neurons), or nothing (`local`). The rules for links, such as `target`, send from a task to another.

    z:
      value: f32[B, S] = zeros
      credit: target
    z:
      value: f32[B, S] = zeros
      credit: truncate(4)""",
    ),
    Entry(
        "E266",
        "a learned initial value that cannot be",
        """\
`learned` is a parameter, drawn from an initialiser that may be named, `learned(normal(0.1))`. It is the same for
every sample, so it has the carry's dims without those that are known only when the model runs, and these come first.

    z: f32[S, B] = learned
    z: f32[B, S] = learned""",
    ),
    Entry(
        "E267",
        "a carry that is never updated",
        """\
A carry goes from one step to the next by being assigned in the body. One that is not has its initial value at every
step, so whatever reads it sees the same at all of them: a mistake that runs, and that no loss curve shows.

    body: |
      new = tanh(linear(data, S) + linear(c, S))     # c stays what it was
    body: |
      c = tanh(linear(data, S) + linear(c, S))""",
    ),
    Entry(
        "E268",
        "`widths` of what has no coordinates",
        """\
`widths` says of a carry by what parts of its last axis it may be used: `c: [1/4, 1/2, 1]` for the first quarter, the
first half, and all. The carry is zero behind its width, at the start and after each assignment.

    widths:
      data: [1/2, 1]
    widths:
      c: [1/2, 1]""",
    ),
    Entry(
        "E269",
        "a loop has no such value",
        """\
Where a loop is used, its result has every name that its body gives a value: `r.z` is the value after the last step,
`r.z.steps` those after every step, with an axis of steps behind the batch. Where samples halt there are also
`r.z.mean`, `r.count` and `r.ponder`.

    r = refine(x)
    out = r.hidden
    out = r.z""",
    ),
    Entry(
        "E270",
        "parameters for steps whose number has no limit",
        """\
`parameters: per_step` makes parameters for as many steps as there can be, before any data is seen. A dim with a range
has a largest number of steps, a dim that data brings has none.

    dims: {depth: 1..8 = 3}
    refine(data):
      repeat: depth
      parameters: per_step""",
    ),
    Entry(
        "E272",
        "running statistics in a loop",
        """\
An op that normalises over the batch keeps running statistics for the model in use. Every step of a loop has statistics
of its own, and the number of steps may differ from run to run, so there is no one set to keep. The model would learn
with those of the batch and be used with those it was made with.

    z = tanh(batch_norm(linear(data, S) + linear(z, S)))

    z = tanh(layer_norm(linear(data, S) + linear(z, S)))""",
    ),
    Entry(
        "E320",
        "a carry and its initial value do not fit",
        """\
A carry is declared with its type, and starts with a value of that type.

    c: f32[B, 16] = linear(data, 8)
    c: f32[B, 16] = linear(data, 16)""",
    ),
    Entry(
        "E321",
        "a sequence without the axis that a loop runs over",
        """\
`over: T` reads one element a step of every sequence in `each`, along the first axis behind the batch that is T long.

    inputs:
      x: f32[B, D]
    read(x):
      over: T
      each: {xt: x}

    inputs:
      x: f32[B, T, D]""",
    ),
    Entry(
        "E322",
        "a carry that has another type after a step",
        """\
What a step makes of a carry is what the next step reads, so it has the type that the carry is declared with.

    carry:
      c: f32[B, 16] = zeros
    body: |
      c = linear(c, 8)
    body: |
      c = linear(c, 16)""",
    ),
    Entry(
        "E323",
        "a halting rule that is not one number for every sample",
        """\
Samples halt by themselves: `until` is a bool for every sample, or the probability to halt at this step (Graves, 2016),
f32[B]. A layer with one unit gives f32[B, 1], of which the only column is taken.

    until: sigmoid(linear(c, 1))
    until: sigmoid(linear(c, 1))[:, 0]""",
    ),
    Entry(
        "E324",
        "a value of a halting loop without samples",
        """\
Where samples halt at different steps, the value after a sample's last step is another step's for each of them. So
what such a loop gives has the samples along its first axis, and what a step reads has one axis of samples or none.

    k: f32[] = 0
    k: f32[B] = 0""",
    ),
    Entry(
        "E473",
        "a halting rule that can never halt",
        """\
The rule says the same at every step. A bool is then true at the first step or never, and a constant probability
that does not add up to 1 - epsilon in `max` steps halts no sample before that.

    until: sum(data, axes=1) > 0
    until: sum(c, axes=1) > 0         # of a carry, which changes""",
    ),
    Entry(
        "N474",
        "a halting rule that is the same at every step",
        """\
The probability to halt depends on no carry, and not on the number of the step. How many steps a sample takes is then
known before the first one, and does not depend on what the steps find.

    until: sigmoid(linear(data, 1))[:, 0]
    until: sigmoid(linear(c, 1))[:, 0]""",
    ),
    Entry(
        "W475",
        "a halting probability that is none",
        """\
The halting rule gives numbers below 0 or above 1. The weights of a sample's steps are these numbers and what is left
of 1, so they would be negative or larger than 1.

    until: linear(c, 1)[:, 0]
    until: sigmoid(linear(c, 1))[:, 0]""",
    ),
    Entry(
        "W476",
        "a carry that is updated and never read",
        """\
No step reads what the step before has made of the carry, and nothing reads it when the loop is done. It is computed
at every step for nothing.

    carry:
      c: f32[B, S] = zeros
    body: |
      c = linear(data, S)
      z = z + linear(data, S)
    body: |
      c = tanh(linear(data, S) + linear(c, S))
      z = z + c""",
    ),
    Entry(
        "E488",
        "a credit rule that changes layers, and a loop",
        """\
`feedback` puts a fixed matrix in the place of a layer's own in the backward, and `hebbian` changes a layer with its
own activity. A layer inside of a loop runs at every step, which neither of them takes into account: without this
message, it would silently learn by backpropagation, or not at all.

    credit: feedback

    credit: direct
    links:
      encode.h -> refine: {credit: backprop}""",
    ),
)
