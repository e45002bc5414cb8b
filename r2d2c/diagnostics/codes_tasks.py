"""Diagnostics 4xx: tasks, credit, losses, wiring."""

from __future__ import annotations

from r2d2c.diagnostics.codes_wiring import WIRING
from r2d2c.diagnostics.entry import Entry

TASKS: tuple[Entry, ...] = (
    Entry(
        "E401",
        "a target where the model is used",
        """\
Behaviors and outputs are what remains when the model is used, and then there are no targets.
Representatives, distances and losses may read them.

    behavior: h = linear(y, 8)
    behavior: h = linear(x, 8)
    distance: mse(h, y)""",
    ),
    Entry(
        "E402",
        "a representative where the model is used",
        """\
A representative is computed from the target, so no behavior or output can read it. A task can learn from
it, though, in place of the behavior below: that is what `feed` says.

    classify:
      behavior: logits = linear(encode.r, 10)

    classify:
      behavior: logits = linear(encode.h, 10)
    links:
      encode.h -> classify: {credit: local, feed: encode.r}""",
    ),
    Entry(
        "E403",
        "a representative that reads a behavior",
        """\
A representative says what is asked of a behavior, so it cannot depend on one: it is made from targets,
inputs and the representatives of other tasks.

    representative: r = linear(encode.h, 8)
    representative: r = one_hot(y, 10) |> linear(8)""",
    ),
    Entry(
        "E410",
        "a representative without a distance",
        """\
A representative is asked for by the task's distance, and `keep: own` keeps that distance. Without one,
neither means anything.

    encode:
      behavior: h = linear(x, 8)
      representative: r = one_hot(y, 10) |> linear(8)
      distance: mse(h, r)               # this is missing""",
    ),
    Entry(
        "E411",
        "`teach` without a representative",
        """\
`teach` says which losses train the task's representative. Its behavior is trained by its own distance and
by what the credit of its links brings back.

    classify:
      distance: cross_entropy(logits, y)
      teach: classify                   # remove it""",
    ),
    Entry(
        "E412",
        "not a credit rule",
        """\
A credit is the name of a rule, with its arguments if it has any.

    credit: 0.5
    credit: local""",
    ),
    Entry(
        "E413",
        "a link that is annotated twice",
        """\
Two entries of `links:` speak of the same edge: `encode -> classify` is all that classify reads of encode,
`encode.h -> classify` one value of it.

    links:
      encode -> classify: {credit: local}
      encode.h -> classify: {credit: backprop}     # which one?""",
    ),
    Entry(
        "E414",
        "a link that is not there",
        """\
Links are made by what behaviors read; `links:` only says which credit they carry. The right side must be a
task whose behavior reads the left side.

    classify:
      behavior: logits = linear(encode.h, 10)
    links:
      encode.g -> classify: {credit: local}
      encode.h -> classify: {credit: local}""",
    ),
    Entry(
        "E415",
        "`feed` of something else than a representative",
        """\
`feed` names the representative that the task above reads while it learns: a value of a `representative:`.

    encode.h -> classify: {credit: local, feed: encode.h}
    encode.h -> classify: {credit: local, feed: encode.r}""",
    ),
    Entry(
        "E416",
        "not a metric",
        """\
A metric is written like a call, of names, with numbers as options.

    metrics:
      - logits == y
      - accuracy(logits, y)
      - top_k_accuracy(logits, y, k=5)""",
    ),
    Entry(
        "E417",
        "a metric of something else than ports",
        """\
A metric judges the composed model, so it compares outputs with targets and inputs, by their names in
`outputs`, `targets` and `inputs`.

    outputs:
      logits: classify.logits
    metrics:
      - accuracy(classify.logits, y)
      - accuracy(logits, y)""",
    ),
    Entry(
        "E418",
        "a metric with too few or too many values",
        """\
A metric compares predictions with targets, and may take a mask of the targets' shape.

    metrics:
      - accuracy(logits)
      - accuracy(logits, y)""",
    ),
    Entry(
        "E419",
        "`teach` names a task that has no loss",
        """\
A term of `teach` is the loss of a task, which is its distance, or one of `losses:`.

    tasks:
      trunk:
        behavior: h = linear(x, 8)            # no distance
      encode:
        representative: r = one_hot(y, 10) |> linear(8)
        teach: encode + trunk

        teach: encode + classify""",
    ),
    Entry(
        "E420",
        "tasks that read each other in a circle",
        """\
A task is computed after those it reads, so they cannot read each other; the labels show the circle. The
same holds for representatives.

    a:
      behavior: h = linear(b.h, 8)
    b:
      behavior: h = linear(a.h, 8)      # read an input or a third task instead""",
    ),
    Entry(
        "E430",
        "a credit rule that does not exist",
        """\
The credit of a link is one of the built-in rules, or one that a plug-in brings (`--plugin mine.py`).

    encode.h -> classify: {credit: backpropagation}
    encode.h -> classify: {credit: backprop}""",
    ),
    Entry(
        "E431",
        "an option that a credit rule does not have",
        """\
The message shows the rule's options with their defaults; `r2d2c ops --credit` says what they mean. They are
given by name, or in their order before those with a name.

    credit: local(3)
    credit: local""",
    ),
    Entry(
        "E432",
        "`feed` with a rule that brings credit back",
        """\
With `feed` the task above reads a representative instead of the behavior below, so nothing could come back
to that behavior; its own distance is what trains it. Only `local` is made for that.

    encode.h -> classify: {credit: backprop, feed: encode.r}
    encode.h -> classify: {credit: local, feed: encode.r}""",
    ),
    Entry(
        "E433",
        "`feed` from another task",
        """\
A link feeds a representative of the task it comes from: it stands in for that task's value.

    first.h -> second: {credit: local, feed: second.r}
    first.h -> second: {credit: local, feed: first.r}""",
    ),
    Entry(
        "E434",
        "a link from a task to itself",
        """\
A link is an edge between two tasks. Inside a task, gradients flow as they are; `stop(…)` ends one.

    encode.h -> encode: {credit: local}
    encode.h -> classify: {credit: local}""",
    ),
    Entry(
        "E435",
        "a value that an option of a credit rule cannot have",
        """\
A number stands as a number, a choice as a bare name, yes and no as `true` and `false`, and what is to be
applied as a block or an op with the rest of its arguments.

    credit: target(inverse=3, difference=yes)
    credit: target(inverse=linear(H), difference=true)""",
    ),
    Entry(
        "E436",
        "an option of a credit rule that is out of range",
        """\
The rule makes no sense with this number; the message says which it takes.

    credit: target(noise=-0.1)
    credit: target(noise=0.1)""",
    ),
    Entry(
        "E437",
        "an option of a credit rule that is given twice",
        """\
By its position and by its name, or by its name two times.

    credit: target(linear(H), inverse=linear(D))
    credit: target(inverse=linear(H))""",
    ),
    Entry(
        "E438",
        "an option of a credit rule that is missing",
        """\
It has no default, because no value suits most models.

    credit: truncate
    credit: truncate(8)""",
    ),
    Entry(
        "E439",
        "an option of a credit rule that names no port",
        """\
The rule reads what the data brings, by the name it has in `targets:` (or, where the message says so, in
`inputs:`). A value of a task is none of these.

    targets:
      y: i64[B]
    credit: goodness(negatives=encode.r)
    credit: goodness(negatives=hard)""",
    ),
    *WIRING,
)
