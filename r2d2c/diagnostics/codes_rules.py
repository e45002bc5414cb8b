"""Diagnostics 490–499: where the built-in credit rules cannot stand; 526: what they keep in a checkpoint."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

RULES: tuple[Entry, ...] = (
    Entry(
        "E490",
        "a link's value that a credit rule can do nothing with",
        """\
These rules give every sample a δ of its own at the link's value h. So h has to be floating and to have the batch
first; and where a rule makes a layer of its own that reads h, the size of a sample has to be known when compiling.

    encode:
      behavior: ids = argmax(linear(x, 8))          # integers: nothing comes back through them
    links:
      encode.ids -> classify: {credit: direct}

    encode:
      behavior: p = softmax(linear(x, 8))""",
    ),
    Entry(
        "E491",
        "`target` without an inverse",
        """\
Target propagation sends a target down from the value that the task above gives, through an inverse that is learned.
That takes one floating value of the task above with the batch first, and an inverse that ends with the shape of the
link's value. Without `inverse=`, it is one linear layer, which needs sizes that are known.

    credit: target(inverse=linear(8))        # and encode.h is f32[B, 16]
    credit: target(inverse=linear(16))
    credit: target                           # one linear layer of the right size""",
    ),
    Entry(
        "E492",
        "`direct` without an error at an output",
        """\
Direct feedback alignment leads the error at the outputs, ∂L/∂output, to every task through a matrix B. It takes a
task that gives an output and has a distance, of which a gradient comes to that output, and outputs whose places B
can lead to the places of the link's value: sizes that are known, or one and the same sequence.

    classify:
      behavior: logits = linear(encode.h, 10)
      distance: mse(cast(argmax(logits), f32), cast(y, f32))     # no gradient passes
      distance: cross_entropy(logits, y)""",
    ),
    Entry(
        "E493",
        "`synthetic` with a predictor that cannot guess",
        """\
The predictor guesses δ at the link's value h, so its result has the shape of h. The default one is linear, and sees
`labels=` as one of so many classes; a block may take anything.

    targets:
      y: f32[B, 3]
    credit: synthetic(labels=y)                          # no class label
    blocks:
      guess(h, y): return linear(concat(h, y), 64)
    credit: synthetic(labels=y, predictor=guess)         # h is f32[B, 64]""",
    ),
    Entry(
        "W494",
        "`feedback` with no layer to act on",
        """\
Feedback alignment changes how linear and convolution layers of the task above pass their gradient on. If none of
them reads the link's value, nothing is changed, and the link learns by backprop.

    classify:
      behavior: logits = encode.h * 2                  # no layer
      behavior: logits = linear(encode.h, 10)""",
    ),
    Entry(
        "E495",
        "`feedback` through a layer that is not the link's own",
        """\
A layer has one B, and all that comes back through it passes that B. So a layer that reads the values of two links
cannot bring back a true gradient over one of them. And B stands for a weight that is learned: one that is computed,
for each sample perhaps, has none.

    both:
      behavior: logits = linear(concat(a.h, b.h), 10)
    links:
      a.h -> both: {credit: feedback}
      b.h -> both: {credit: backprop}      # write `feedback` here too, or `local`""",
    ),
    Entry(
        "E496",
        "`hebbian` without a plastic layer",
        """\
Hebbian plasticity changes the weights of `linear`, `conv1d` and `conv2d` in the task below the link. The task needs
one with a weight of its own: not frozen, not computed, and not shared with a task that learns by gradient.

    encode:
      behavior: h = relu(x)
      behavior: h = relu(linear(x, 64, bias=false))
    links:
      encode.h -> classify: {credit: hebbian}""",
    ),
    Entry(
        "W497",
        "parameters that `hebbian` leaves as they are",
        """\
Hebbian plasticity changes the weights of layers, and nothing comes back over the link. So biases, and the scales and
shifts of norms, keep their first numbers.

    h = relu(linear(x, 64))
    h = relu(linear(x, 64, bias=false))""",
    ),
    Entry(
        "E498",
        "links of one credit that cannot work together",
        """\
Under `predictive`, `equilibrium` and `alternate`, all values of the rule's links settle together, so its links have
the same options. They settle, as the targets of `target` and the guesses of `synthetic` are made, by a loss of the
tasks above: without one there is nothing to learn from. `nudge=0` nudges nothing.

    links:
      a.h -> b: {credit: "predictive(steps=8)"}
      b.h -> c: {credit: "predictive(steps=4)"}
    credit: predictive(steps=8)""",
    ),
    Entry(
        "W499",
        "an op that draws other numbers when a rule runs it again",
        """\
A rule whose values settle runs the behaviors above its links several times for one batch, and takes all runs for one
function. `dropout` and `noise` draw other numbers each time, so that what it learns from is noise in part.

    credit: predictive
    classify:
      behavior: logits = encode.h |> dropout(0.2) |> linear(10)
      behavior: logits = encode.h |> linear(10)""",
    ),
    Entry(
        "E526",
        "checkpoint without the fixed matrices of a credit rule",
        """\
`feedback` and `direct` send δ back through fixed random matrices B. They are drawn from the run's seed and saved in
its checkpoints, and the weights of the run have learned with them. So a file of weights without them, or with some of
another shape, cannot stand for the run: with other B, what was learned would be taught by other signals.

    r2d2c train spec.yaml --credit feedback --out runs/feedback
    r2d2c train --resume runs/feedback         # B comes from its checkpoint""",
    ),
)
