"""Op graphs: their ops, their room, where they are used, and what reads them."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

OP_GRAPHS: tuple[Entry, ...] = (
    Entry(
        "E340",
        "an op of an op graph that is not one op of columns",
        """\
An op graph has small ops with names, each a kind with its arguments. An argument is a column of the input, another op,
or a number of the op's own, which is trained: `p`, or `p(0.5)` that starts at 0.5. An expression of several ops is
several ops, so that each can be pruned by itself; an op that reads no column would give the same for every sample.

    nodes: {o: x[0] * x[1] + 2.0}
    nodes: {product: x[0] * x[1], o: product + p(2.0)}""",
    ),
    Entry(
        "E341",
        "a kind of op that op graphs do not have",
        """\
The ops of an op graph work on single numbers, and all of a kind are computed together: `add`, `sub`, `mul`, `div`,
`gauss`, `relu`, and what else `r2d2c ops --kinds` lists. Plug-ins may bring more (docs/plugins.md). `ops` names each
kind that may grow once.

    ops: [plus, mul]
    ops: [add, mul]""",
    ),
    Entry(
        "E342",
        "an op of an op graph with the wrong number of arguments",
        """\
Every kind has its number of arguments: `relu` and `sin` have one, `add` and `gauss` two, `multiply_add` three.

    nodes: {o: gauss(x[0])}
    nodes: {o: "gauss(x[0], x[1])"}""",
    ),
    Entry(
        "E343",
        "an argument in an op graph that is not there",
        """\
The columns that an op graph reads are `x[0]`, `x[1]`, … whatever value it is called with; their number is the last
size of that value. Other arguments are ops of the same op graph, by name.

    inputs: {data: "f32[B, 4]"}
    nodes: {o: x[4] * other}
    inputs: {data: "f32[B, 4]"}
    nodes: {o: x[3] * x[0]}""",
    ),
    Entry(
        "E344",
        "ops of an op graph that read each other in a circle",
        """\
Ops are computed in an order in which each comes after what it reads, so there is no op that reads itself, not through
others either.

    nodes: {a: b + x[0], b: a * x[1]}
    nodes: {a: x[0] + x[1], b: a * x[1]}""",
    ),
    Entry(
        "E345",
        "a size of an op graph that cannot be",
        """\
`capacity` is the most ops there may ever be: its buffers have that many rows, used or not, so that growing changes no
shape. There is room for the ops that the spec writes and for those of `start`. With `compensate` or `by: saliency`, for
which all pairs of ops are compared, it is 16,384 at most.

    capacity: 4
    start: 16
    capacity: 64
    start: 16""",
    ),
    Entry(
        "E346",
        "a name that an op of an op graph cannot have",
        """\
`x` and `x0`, `x1`, … are the columns that the op graph reads, `p` is a number of an op's own, and `n0`, `n1`, … are the
names of ops that grow.

    nodes: {n1: x[0] * x[1]}
    nodes: {product: x[0] * x[1]}""",
    ),
    Entry(
        "E347",
        "an op graph that is used where it cannot be",
        """\
An op graph is one instance: it is called once, with one value, and has one table of ops. Twice used, what reads the
one use would say what becomes of the other. It may stand in a task, in a block that is used once, and where it is
not normalised over the batch in the body of a loop; not in a loop with parameters for every step, nor inside of what a
hypernet makes.

    first = layer(x)
    second = layer(h)
    first = layer(x)
    second = layer_2(h)""",
    ),
    Entry(
        "E348",
        "an op graph that grows and is read by something else than `linear`",
        """\
A new op enters with weight zero in what reads it, so that growing does not change the function, and the weights of a
pruned op go with it. Only the weights of `linear` have a row for every column. Any number of `linear`s may read the
columns, also through `concat` along their last axis. An op graph without `grow` may be read by anything.

    columns = layer(x)
    h = tanh(columns)
    columns = layer(x)
    h = tanh(linear(columns, 16))""",
    ),
    Entry(
        "E349",
        "an option of an op graph that cannot be",
        """\
`normalise` is `none`; or `batch`: every op's value over the batch while it learns, by running statistics when it is
used, so that one sample alone gives the same result; or `layer`: the values that a sample has, over all ops, which an
op graph that grows cannot have, as each new op would change the columns of all others. Random ops, of `start` and of
`grow`, are drawn from the kinds that `ops` names.

    capacity: 64
    start: 16
    capacity: 64
    ops: [add, mul, gauss]
    start: 16""",
    ),
)
