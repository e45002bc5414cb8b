"""Diagnostics 660-669: which optimizer steps which parameters, clipping, weight decay and precision."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

OPTIMIZATION: tuple[Entry, ...] = (
    Entry(
        "E660",
        "optimizer, clip or decay of no parameter",
        """\
A key of `optimizers` or `clip`, or an entry of `no_decay`, is the beginning of parameters' names as in `rates`, or a
word for a kind of them: `matrices` (two axes), `vectors` (fewer), `bias` (so called), `norm` (of ops that normalise).
No parameter that learns is meant by this one. `r2d2c compile SPEC --emit training` lists the names.

    train:
      optimizers:
        encode.r: adam(lr=1e-4)         # encode.r.linear.weight, …
        matrices: muon(lr=0.02)""",
    ),
    Entry(
        "E661",
        "optimizer that cannot follow growth",
        """\
adafactor keeps sums over the rows and the columns of a matrix, not a number for each entry, so its state cannot follow
the ops of an op graph that come and go.

    train:
      optimizer: adafactor
      optimizers: {graph: adam}         # for the op graph's numbers, and for what reads them""",
    ),
    Entry(
        "E662",
        "bad bound for gradients",
        """\
`clip` is a number above 0, which the norm of all gradients together may not exceed; `value(…)` of one, which bounds
every entry; or a map with such a bound for each of some beginnings of names, where each has a norm of its own. One norm
for all forbids to step a task before the last backward is done.

    clip: 1.0
    clip: value(0.5)
    clip: {encode: 1.0, classify: norm(0.5)}""",
    ),
    Entry(
        "W663",
        "no weight decay to leave out",
        """\
`no_decay` says which parameters have no weight decay. None of the optimizers has any, so it changes nothing.

    optimizer: adamw(weight_decay=0.01)
    no_decay: [bias, norm]""",
    ),
    Entry(
        "E664",
        "spec that needs f32",
        """\
With `precision: bf16` or `fp16`, matrix products and convolutions are computed in 16 bits. Some constructs sum up so
much, or in ways of their own, that this would be another rule: those learn in f32 alone.

    train:
      precision: f32""",
    ),
    Entry(
        "E665",
        "precision that the device does not have",
        """\
bf16 works on CPUs, on newer GPUs and on Apple's; fp16, whose losses are scaled so that small gradients do not vanish,
on CUDA devices.

    train:
      precision: bf16""",
    ),
)
