"""Widths, and losses over the steps and widths of a loop."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

DISTILLATION: tuple[Entry, ...] = (
    Entry(
        "E271",
        "a width that does not divide",
        """\
`widths` of a loop says with which parts of a carry's coordinates it must do. The part has to be a whole number
of coordinates: 1/4 of 30 is none.

    carry: {z: f32[B, 30] = zeros}
    widths: {z: [1/4, 1]}
    widths: {z: [1/5, 1]}""",
    ),
    Entry(
        "E280",
        "a loss over steps or widths of what has none",
        """\
With `steps:` a loss is taken at several steps of a loop, and `.steps` in its value is the value at each of them.
Without such a value it would be the same number again and again. `.widths` is the same for the narrower widths of
a loop that has `widths`. Only what a loop gives has either: with `out = r.z` it is still `think.r.z.steps`.

    early: {value: "mse(think.out.steps, stop(think.out))", steps: 2..depth}
    early: {value: "mse(think.r.z.steps, stop(think.out))", steps: 2..depth}""",
    ),
    Entry(
        "E281",
        "a range of steps that cannot be",
        """\
`steps:` has a first step, a number from 1 on, and a last one, a number or the name of a dim.

    steps: 0..depth
    steps: 1..depth""",
    ),
    Entry(
        "E282",
        "a depth smaller than the first step that has a loss",
        """\
At the depth at which the model learns, none of the steps that the loss is for is ever reached, so that it would do
nothing. (Where a run is given another depth, and that has none of the steps, the loss is 0.)

    dims: {depth: 1..8 = 3}
    early: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 5..depth}
    early: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..depth}""",
    ),
    Entry(
        "E283",
        "a weight that divides by zero at some depth",
        """\
The weight of a loss over steps is computed for every step of every depth, and here it has no value at one of them:
the loss, and all gradients, would be infinite there.

    weight: 0.3 / (depth - step)
    weight: 0.3 / (depth - step + 1)""",
    ),
    Entry(
        "E284",
        "a step that the loop may not reach",
        """\
The loss goes to a step that not every run of the loop gets to: to step 5 of `repeat: 3`, or to step 3 at a depth
that may be 1. Let it go to the loop's own last step, or raise the least depth.

    dims: {depth: 1..8 = 4}
    early: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..3}
    early: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..depth}""",
    ),
    Entry(
        "W477",
        "a distillation teacher that is not stopped",
        """\
A loss that makes early steps (or narrow widths) like the last step (or the full width) should teach the former
alone. Without `stop` the teacher learns as well, and the two meet in the middle: the collapse to a constant is then
as good as any answer.

    early: {value: "mse(think.r.z.steps, think.r.z)", steps: 2..depth}
    early: {value: "mse(think.r.z.steps, stop(think.r.z))", steps: 2..depth}""",
    ),
)
