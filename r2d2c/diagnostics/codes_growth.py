"""Diagnostics 350-354 and 571-578: op graphs that grow while they are trained, the log of what they did, and searches."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

GROWTH: tuple[Entry, ...] = (
    Entry(
        "E350",
        "a time of growth that is none",
        """\
`every` says when an op graph changes: after every so many epochs or steps, or when the monitored metric has brought
nothing new for so many epochs.

    grow: {every: 200, add: 8}
    grow: {every: steps(200), add: 8}""",
    ),
    Entry(
        "E351",
        "growth that does nothing",
        """\
A round of growth merges, prunes, splits and adds ops. One of `merge`, `prune`, `split` and `add` is needed; other keys
say how: `by`, `below`, `whole` and `compensate` which ops go and what becomes of the rest, `prefer`, `reach` and `wire`
what new ones read.

    grow: {every: epochs(1), by: effect}
    grow: {every: epochs(1), prune: 4, by: effect, add: 8}""",
    ),
    Entry(
        "E352",
        "growth that would empty an op graph",
        """\
A round prunes before it adds, and an op graph keeps one op at least. Where more is pruned than added, say when it
stops with `epochs`.

    start: 4
    grow: {every: epochs(1), prune: 4, add: 8}
    start: 16
    grow: {every: epochs(1), prune: 4, add: 8}""",
    ),
    Entry(
        "E353",
        "a worth of ops that is no formula of scores",
        """\
`by` is a score, or a formula of them. `effect` is the standard deviation of the op's column times the norm of its
weights in the read-out, `saliency` the same of what the other columns cannot make up for, `magnitude` that norm alone,
`taylor` how much the loss would change without the column, to first order, `depth` how many ops the longest path to it
has, `length` how far what it reads lies from it, and `age` how many rounds of growth it has lived through. Comparisons
are 1 or 0.

    grow: {every: epochs(1), prune: 4, by: usefulness}
    grow: {every: epochs(1), prune: 4, by: effect + 10 * (age < 2)}""",
    ),
    Entry(
        "E354",
        "a preference of growth that cannot be",
        """\
`prefer` says which columns new ops read: `any`, `gradient`, those through which the loss would change most, `near`,
those that lie within about `reach` of each other, or `shallow`, inputs as often as ops of any depth. `wire` is a
predicate of `distance`, `plane`, `step`, `dx`, `dy` and `dz`, from the place of a column to that of the op that reads
it. `below` and `reach` are numbers above 0.

    grow: {every: epochs(1), add: 8, prefer: best}
    grow: {every: epochs(1), add: 8, prefer: gradient}""",
    ),
    Entry(
        "E571",
        "a round of growth that cannot be",
        """\
What ops are worth came out as NaN, so there is no telling which of them matters least; or a round would leave no op.
Nothing was changed, and the run's last checkpoint is whole. Values overflow in chains of products and squares: use
`normalise: batch`, a smaller `depth`, or another score.""",
    ),
    Entry(
        "E572",
        "a log of mutations that cannot be replayed",
        """\
`mutations.jsonl` in a run's folder says what every op graph began as and each round of its growth, with a fingerprint
of the spec and checksums. It is of another spec, or was changed, or is cut off. The run itself goes on without it: its
checkpoints have the topology.""",
    ),
    Entry(
        "E573",
        "a round of growth that the log does not have",
        """\
`r2d2c replay RUN --at N` shows the op graphs as they were after N rounds, and there were fewer.""",
    ),
    Entry(
        "W574",
        "the log of mutations is incomplete",
        """\
`mutations.jsonl` has fewer lines than the checkpoint has seen written (a full disk, a power cut, an editor). Training
resumes exactly all the same, as the checkpoint has the topology; `r2d2c replay` cannot rebuild it any more.""",
    ),
    Entry(
        "E575",
        "another search in the folder",
        """\
`r2d2c evolve SPEC --out FOLDER` goes on with the search that is in the folder. That one was started with another spec,
seed, population, or number of epochs, so their candidates could not be compared; or it is still running; or its
database, `evolve.db`, is damaged. Choose another folder, or say what was said when it was started.""",
    ),
    Entry(
        "E576",
        "a search with nothing to change",
        """\
`r2d2c evolve` adds ops to op graphs and prunes others. It needs one that says which `ops` may grow, and whose columns
are read by `linear`s alone, as a new op enters with weight zero there.

    op_graphs:
      layer: {nodes: {o0: x[0] * x[1]}}
    op_graphs:
      layer: {ops: [add, mul, gauss], capacity: 64, start: 16}""",
    ),
    Entry(
        "E577",
        "a search without validation data",
        """\
`r2d2c evolve` selects by the monitored metric on validation data: by training data it would keep what learns by heart,
and test data are for the end. Hold out a share of the training data with `split`.

    train: {data: "csv:data.csv?target=y"}
    train: {data: "csv:data.csv?target=y", split: 0.2}""",
    ),
    Entry(
        "E578",
        "a frozen op that is not there",
        """\
`frozen` names ops of an op graph that stay as they are, as it is when the training begins: ops that the spec writes,
random ones (`n0`, `n1`, …), or those of the run that it begins with. `all` is every one that there is.

    nodes: {product: x[0] * x[1]}
    grow: {every: epochs(1), add: 8, frozen: [produkt]}
    nodes: {product: x[0] * x[1]}
    grow: {every: epochs(1), add: 8, frozen: [product]}""",
    ),
)
