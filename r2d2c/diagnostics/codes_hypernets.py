"""Hypernets."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

HYPERNETS: tuple[Entry, ...] = (
    Entry(
        "E275",
        "a hypernet that makes nothing",
        """\
`makes` is a call of an op that has parameters, or of a block that uses such ops, without its first value. What is
frozen there is not generated, and neither are the parameters of a loop or of another hypernet.

    makes: relu

    makes: linear(64)
    makes: mlp(64)""",
    ),
    Entry(
        "E276",
        "an option of a hypernet that has no such value",
        """\
`mode` is full, factors, scale or shared; `normalise` is none, frobenius or rows; `act` is an activation or none;
`hidden`, `rank` and `chunks` are integers from 1 on that are known when compiling; `base` is true or false.

    mode: low_rank

    mode: factors""",
    ),
    Entry(
        "E277",
        "options of a hypernet that do not go together",
        """\
`rank` is that of `mode: factors`, which needs one. `chunks` splits what `mode: full` generates, and needs `hidden`:
without that layer all parts would be the same. `act` is the activation of that layer. `normalise` is for what is
generated, so not for `scale`, which always has its `base`.

    mode: scale
    rank: 8

    mode: factors
    rank: 8""",
    ),
    Entry(
        "E278",
        "a generated parameter that is read by its name",
        """\
A parameter that a hypernet generates is another one for every context, so there is no one value to share. What it is
made of can be read: `view.linear.weight.base`.

    hypernets:
      view:
        makes: linear(64)
    loss: mean(square(view.linear.weight))

    loss: mean(square(view.linear.weight.base))""",
    ),
    Entry(
        "E330",
        "a value that cannot be a context",
        """\
A hypernet generates from floats along the last dim of `from`, whose size is known when compiling: it is that of the
generator's parameters. An integer goes through `embedding` or `one_hot` first.

    h = view(x, from=task)

    h = view(x, from=embedding(task, count=5, width=16))""",
    ),
    Entry(
        "E331",
        "a context that does not fit the value",
        """\
The dims of `from` but the last say for what there are parameters of their own: they are the first dims of the value
(`[B, S]`: every sample; `[B, P, S]`: every position of every sample) or, for ops of the last dim, those before the last
(`[P, S]`: every position, the same for all samples). None (`[S]`) is one set of parameters for all. In a block this
holds for every op with parameters.

    x: f32[B, 4, 8]    c: f32[B, 5, 16]

    x: f32[B, 4, 8]    c: f32[B, 4, 16]""",
    ),
    Entry(
        "E332",
        "an op that cannot have generated parameters",
        """\
Some ops have no form with parameters for every sample: running statistics are no parameters; a transposed
convolution takes one kernel for all samples (its factors and its scale can be generated); kernels in groups have
no two factors. Ops of plug-ins take generated parameters if they say so: an argument whose doc has "per sample".

    makes: batch_norm()

    makes: layer_norm()""",
    ),
    Entry(
        "W333",
        "two factors that are no smaller than their product",
        """\
A matrix of `out` by `in` numbers has the rank of the smaller one at the most. With a `rank` that is not less, factors
take as many numbers and operations as the matrix, or more.

    makes: linear(8)
    rank: 16

    makes: linear(8)
    rank: 2""",
    ),
    Entry(
        "E570",
        "more memory than there may be",
        """\
`plan --limit` is a limit on what a learning pass holds: its largest visit, or the generated parameters alone, are
larger. A smaller batch, `mode: factors` with a `rank`, or `mode: scale` take less; so does a smaller `hidden` where the
form is `reorder`.

    r2d2c plan spec.yaml --batch 512 --limit 500MB""",
    ),
)
