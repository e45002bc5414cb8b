"""Diagnostics 482–487: where the credit `goodness` cannot stand."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

GOODNESS: tuple[Entry, ...] = (
    Entry(
        "E482",
        "goodness without negative samples",
        """\
Forward-forward learns from the difference between right and wrong samples. It makes the wrong ones from a class
label, `i64[B]`, of which a distance such as `cross_entropy` or a `one_hot` says how many classes there are. Where
there is none, the data has to bring them.

    targets:
      y: f32[B, 3]
    credit: goodness

    targets:
      y: f32[B, 3]
      shuffled: f32[B, 64]
    credit: goodness(negatives=shuffled)""",
    ),
    Entry(
        "E483",
        "no input to write the label into",
        """\
The label takes the place of the first C numbers of an input: of a row of features, of the pixels of each channel of
an image, of every step of a sequence. The input has to be floating, to have the batch first, and to have that many
places of a known number. Where several could take it, `input=` says which.

    inputs:
      x: f32[B, 4]              # and 10 classes
    inputs:
      x: f32[B, 14]             # the first 10 are for the label""",
    ),
    Entry(
        "E484",
        "negative samples that cannot be had",
        """\
Declared negative data stands in for the input, so it has the input's type, and no task reads it otherwise. With
`negatives=hard` wrong labels are drawn from what the model itself answers, which must be one logit for each class.

    targets:
      negative: f32[B, 60]
    targets:
      negative: f32[B, 64]      # as the input is""",
    ),
    Entry(
        "E485",
        "goodness links that disagree",
        """\
All goodness links of a model learn from the same two streams, and the model answers in one way: the options that say
so are the same at each. A `threshold` may differ, but one value has only one.

    links:
      a.h -> b: {credit: "goodness(split=true)"}
      b.h -> c: {credit: "goodness(split=false)"}

    credit: goodness(split=true)""",
    ),
    Entry(
        "E486",
        "an answer that goodness alone cannot give",
        """\
With `infer=labels` the goodness of every label is the answer, and the task above, with its parameters, is left out.
So it can be one task, the only thing asked of it one logit for each class, and a label has to be written into the
input.

    outputs:
      logits: classify.logits
      code: encode.h
    outputs:
      logits: classify.logits""",
    ),
    Entry(
        "E487",
        "a link that goodness cannot stand on",
        """\
Goodness is the mean square of a sample's features, so the value is `f32[B, …]`. Everything below such a link runs on
positive and on negative samples, and learns from them: by `goodness`, `local` or `backprop`, without `feed`.

    links:
      first.h -> second: {credit: feedback}
      second.h -> third: {credit: goodness}

    links:
      first.h -> second: {credit: backprop}
      second.h -> third: {credit: goodness}""",
    ),
)
