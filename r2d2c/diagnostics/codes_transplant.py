"""Diagnostics 581-587: training that goes on from the run of another spec."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

TRANSPLANT: tuple[Entry, ...] = (
    Entry(
        "E581",
        "less room than in the run before",
        """\
`r2d2c train SPEC --from RUN` takes over parameters by their names. They may have grown: old units keep their weights,
new ones start anew. What would be smaller, or of another rank or dtype, has no place for what was learned.

    dims: {D: 13, H: 32}    # the run had H: 48
    dims: {D: 13, H: 64}""",
    ),
    Entry(
        "E582",
        "a parameter that grew, and nobody can say how",
        """\
To widen a parameter one has to know which of its entries are the old ones. The op that reads it, or what it reads,
hides that: a larger image that is flattened, another kernel size, groups of channels, a slice of other columns. Keep
that size, or give the layer another `name=`, so that it starts anew while all others go on.

    logits = x |> flatten |> linear(C)                 # where the image is larger than in the run
    logits = x |> flatten |> linear(C, name=larger)""",
    ),
    Entry(
        "E583",
        "a checkpoint without its run",
        """\
A checkpoint has numbers and names. Which spec they belong to is in the run's folder, beside the folder `checkpoints`.

    r2d2c train new.yaml --from runs/wine-001
    r2d2c train new.yaml --from runs/wine-001/checkpoints/best.safetensors""",
    ),
    Entry(
        "E584",
        "an op graph with other ops of its own",
        """\
An op graph that goes on from a run has the ops that it has there, with their numbers. The spec's own `nodes` are no
more than their first names, so they are the same as in the run; those that growth pruned do not come back.

    nodes: {o0: x[0] * x[1]}
    nodes: {o0: x[0] * x[1], o1: sin(x[2])}""",
    ),
    Entry(
        "E585",
        "nothing to go on from",
        """\
The run and the spec share no parameter's name, so there is nothing that could go on. `r2d2c inspect RUN` shows the
names. What has only been renamed is found with `--rename`.

    r2d2c train new.yaml --from runs/wine-001 --rename classify=recognise""",
    ),
    Entry(
        "E586",
        "a rename that renames nothing",
        """\
`--rename OLD=NEW` says that what is called OLD in the run is called NEW in the spec: a parameter, a task, an input, or
the beginning of a dotted name. Both must exist.

    r2d2c train new.yaml --from runs/wine-001 --rename classify=recognise
    r2d2c train new.yaml --from runs/wine-001 --rename classify.logits=recognise.logits --rename x=measured""",
    ),
    Entry(
        "W587",
        "the model is not what the run's was",
        """\
Before training both models run on some samples, and an output that both have is not the same. Wider layers compute
what they did, unless an op makes one number of old and new units alike: a norm over a wider axis, a softmax, a mean,
a product of two wider values. Training goes on from there; freeze nothing that depends on it.

    hidden = x |> linear(H) |> layer_norm |> relu    # H: 48, then H: 64""",
    ),
)
