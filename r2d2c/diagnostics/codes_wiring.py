"""Diagnostics 440–499: what would run and silently learn nothing, or the wrong thing."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

WIRING: tuple[Entry, ...] = (
    Entry(
        "W440",
        "a parameter that no loss reaches",
        """\
No gradient of any loss comes to these parameters, so they keep their first random numbers. The labels show
where the gradients end. `r2d2c wiring` prints which loss trains which parameter.

    encode:
      behavior: h = linear(x, 8)          # no distance, and nothing comes back
    links:
      encode.h -> classify: {credit: local}

    encode:
      behavior: h = linear(x, 8, frozen=true)    # if that is meant""",
    ),
    Entry(
        "E441",
        "a loss behind an op without a gradient",
        """\
All that the loss depends on goes through an op whose result moves in steps: `argmax`, a comparison,
rounding, integers. Its gradient is zero everywhere, so it would train nothing.

    distance: mse(cast(argmax(logits), f32), cast(y, f32))
    distance: cross_entropy(logits, y)""",
    ),
    Entry(
        "W442",
        "a loss that trains nothing",
        """\
No gradient of the loss reaches a parameter: it is computed from inputs, targets, frozen or stopped values.

    distance: mse(stop(h), y)
    distance: mse(h, y)""",
    ),
    Entry(
        "W443",
        "a suspicious weight of a loss",
        """\
A weight of 0 switches the loss off, a negative one makes the loss as large as it can become, and an
infinite one makes every gradient infinite.

    weight: -0.1
    weight: 0.1""",
    ),
    Entry(
        "W450",
        "a value that nobody reads",
        """\
The value is computed in every step and used nowhere. Often it is a misspelled name further down, or an
update that is not carried on. A name that starts with `_` says that it is meant.

    behavior: |
      a = linear(x, 8)
      b = relu(a)
      h = linear(a, 8)        # b is never read

    behavior: |
      a = linear(x, 8)
      b = relu(a)
      h = linear(b, 8)""",
    ),
    Entry(
        "W451",
        "an input or target that nothing reads",
        """\
The data must have it, and the model does not look at it.

    inputs:
      x: f32[B, 64]
      age: f32[B]             # no task reads it; remove it""",
    ),
    Entry(
        "W452",
        "a dim, a block or a parameter of a block that is never used",
        """\
It is declared and its name stands nowhere else.

    dims: {D: 64, H: 32}
    behavior: h = linear(x, D)      # H is never used; was it meant here?""",
    ),
    Entry(
        "W453",
        "a task that does nothing",
        """\
None of its values reaches an output, and it has no distance (or its distance is dropped by the credit of
its link), so it neither answers nor learns.

    tasks:
      aux:
        behavior: a = linear(x, 8)
    outputs:
      a: aux.a                      # for example""",
    ),
    Entry(
        "W454",
        "an output that is always the same",
        """\
No input reaches the output, so the model answers the same to everything.

    behavior: h = ones((4,))
    behavior: h = linear(x, 4)""",
    ),
    Entry(
        "E460",
        "a term of `teach` that cannot reach its representative",
        """\
The loss does not depend on the representative, so it can never change it. With the default feed the task
above reads the behavior's value, and only with `feed: encode.r` does its loss depend on r.

    encode:
      representative: r = one_hot(y, 10) |> linear(8)
      teach: encode + classify
    links:
      encode.h -> classify: {credit: local}                    # reads h
      encode.h -> classify: {credit: local, feed: encode.r}    # reads r""",
    ),
    Entry(
        "W461",
        "a representative that only its own loss teaches",
        """\
The own loss is smallest when the representative is a constant that the behavior copies: it goes to zero,
looks excellent, and nothing of the target is left. A loss further up has to teach it as well.

    teach: encode
    teach: encode + classify          # with `feed: encode.r` on the link""",
    ),
    Entry(
        "W462",
        "a product of losses as `teach`",
        """\
The factor of each loss is the product of the others. When the own loss is near 0, which a constant
representative reaches at once, the others count for nothing.

    teach: encode * classify
    teach: encode + classify""",
    ),
    Entry(
        "N463",
        "`teach` that is not linear",
        """\
How much a loss teaches is the derivative of `teach` with respect to it. In a sum that is a number; here it
changes with the losses. Such visits cannot be taken apart, so the model also learns in one pass.

    teach: encode + exp(classify)
    teach: encode + 2 * classify""",
    ),
    Entry(
        "N464",
        "a representative of a class label",
        """\
Computed from C classes alone, a representative takes only C values, and the task above sees only C points
while it learns. That is enough for a linear read-out and little for more. A dense target, a sequence, noise
or an input in the representative has no such limit:

    representative: r = one_hot(y, C) |> linear(8)
    representative: r = one_hot(y, C) |> linear(8) |> noise(0.1)""",
    ),
    Entry(
        "N465",
        "a distance that is dropped",
        """\
A credit rule that brings a gradient back takes the place of the distance of a task that is not an output;
that is what makes `r2d2c compare` compare like with like. The representative goes with it.

    encode:
      distance: mse(h, r)
      keep: own                 # trains on both
    links:
      encode.h -> classify: {credit: backprop}""",
    ),
    Entry(
        "W466",
        "`teach` of a representative that cannot learn",
        """\
The representative is a fixed function of the target, or all of its parameters are frozen.

    representative: r = one_hot(y, 10)
    representative: r = one_hot(y, 10) |> linear(8)""",
    ),
    Entry(
        "W470",
        "an op that mixes the samples of a batch",
        """\
The result for one sample depends on which others happen to be in its batch. The inference of one sample
would then differ from training, and the batch size would change the answer.

    h = softmax(x, axis=0)        # over the batch
    h = softmax(x, axis=-1)""",
    ),
    Entry(
        "W471",
        "an index that pairs every sample with all others",
        """\
`x[:, ids]` takes the same columns for all rows. With one id a sample the result is `[B, B]`: every sample's
id picks from every sample. One element for each sample is a `gather`.

    p = x[:, ids]                                      # f32[B, B]
    p = gather(x, reshape(ids, (B, 1)), axis=1)        # f32[B, 1]""",
    ),
    Entry(
        "E472",
        "a credit rule that needs a value that its upper task does not give",
        """\
An option is applied to the first value that the task above gives, and nothing reads a value of that task: no
distance, no other task, no output.

    classify:
      behavior: logits = linear(encode.h, 10)
    links:
      encode.h -> classify: {credit: "target(inverse=linear(8))"}
    outputs:
      logits: classify.logits           # this was missing""",
    ),
    Entry(
        "W480",
        "an op that can never learn",
        """\
Where both factors of a product are 0, the gradient of each is 0, and they stay so. The same happens to
`relu` of a layer that starts at 0.

    h = x |> linear(8, init=zeros) |> linear(8, init=zeros)
    h = x |> linear(8) |> linear(8, init=zeros)""",
    ),
    Entry(
        "E481",
        "random numbers when the model is used",
        """\
An inference graph draws nothing, so that the same input gives the same answer. `noise` and `dropout` are
the identity there; other random ops belong in a representative or a loss.

    h = x + normal_like(x)
    h = noise(x)""",
    ),
)
