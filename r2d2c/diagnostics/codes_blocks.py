"""Diagnostics 230–259: blocks, statements, imports, plug-ins."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

BLOCKS: tuple[Entry, ...] = (
    Entry(
        "E230",
        "a block that uses itself",
        """\
A block is copied to where it is used, so one that uses itself, directly or through others, would never end.
`repeat=` applies a block several times.

    blocks:
      deep(x): return deep(linear(x, 8))

    blocks:
      layer(x): return linear(x, 8)
    tasks:
      fit:
        behavior: h = layer(x, repeat=3)""",
    ),
    Entry(
        "E231",
        "a block that cannot be repeated",
        """\
`repeat=` passes what a block returns on to its next copy as the first argument, so it must take a value
first and return exactly one.

    blocks:
      two(x): return x, x
    h = two(x, repeat=3)

    blocks:
      one(x): return relu(x)
    h = one(x, repeat=3)""",
    ),
    Entry(
        "E232",
        "a block without `return`",
        """\
What a block gives back stands after `return`, in its last line.

    layer(x): h = linear(x, 8)
    layer(x): return linear(x, 8)""",
    ),
    Entry(
        "E233",
        "statements after `return`",
        """\
`return` ends a block; what follows would never run.

    layer(x): |
      return x
      h = relu(x)

    layer(x): |
      h = relu(x)
      return h""",
    ),
    Entry(
        "E234",
        "a value that is computed and dropped",
        """\
A statement without a name has no effect, since ops change nothing in place.

    behavior: |
      relu(x)
      h = linear(x, 8)

    behavior: |
      a = relu(x)
      h = linear(a, 8)""",
    ),
    Entry(
        "E235",
        "a block that is defined twice",
        """\
Two blocks have one name; one of them may come from an import.

    blocks:
      mlp(x): return relu(x)
      mlp(x, width): return linear(x, width)

    blocks:
      mlp(x): return relu(x)
      wide_mlp(x, width): return linear(x, width)""",
    ),
    Entry(
        "E236",
        "`return` outside of a block",
        """\
A task has named values and no single result: others read them by name.

    behavior: return linear(x, 8)
    behavior: h = linear(x, 8)""",
    ),
    Entry(
        "E240",
        "an import that does not exist",
        """\
An import is `std/NAME` of the standard library, or a file in the folder of the spec, by its path from
there.

    imports:
      - layers            # the file is layers.yaml
      - layers.yaml""",
    ),
    Entry(
        "E241",
        "imports in a circle",
        """\
A file imports one that, over some steps, imports it again. Put what both need into a third file.

    # a.yaml
    imports: [b.yaml]
    # b.yaml
    imports: [a.yaml]     # remove this one""",
    ),
    Entry(
        "E242",
        "an import outside the spec's folder",
        """\
A spec may come from a stranger, so it reads nothing but files in its own folder and below.

    imports:
      - ../../secret.yaml
      - shared/layers.yaml""",
    ),
    Entry(
        "E250",
        "a plug-in that does not load",
        """\
The file of `--plugin` is not there, or Python raised an error while importing it. Import it yourself to see
the whole traceback.

    r2d2c check spec.yaml --plugin mine.py
    python -c "import runpy; runpy.run_path('mine.py')\"""",
    ),
    Entry(
        "E251",
        "a credit rule of a plug-in that raises an error",
        """\
The line that is shown is the rule's own. It runs when the training graph is built, so a `breakpoint()` before
it stops in `r2d2c check`, and shows the edge and the values. A rule that cannot stand on a link says so in
its `check`.

    def signal(edge):
        B = edge.storage("B", (10, edge.type(edge.value)), "xavier", "frozen")        # a type is no size
        B = edge.storage("B", (10, numel(edge.type(edge.value))), "xavier", "frozen")""",
    ),
    Entry(
        "E252",
        "a credit rule of a plug-in that gives something else than a value",
        """\
`attach` and `signal` return a value of the graph they are called for, with the shape of the link's value: what
the upper task reads, and δ. Nodes of other shapes are brought to it with ops.

    def signal(edge):
        edge.node("neg", edge.value)             # nothing is returned
        return edge.node("neg", edge.value)""",
    ),
    Entry(
        "E253",
        "a link on which a credit rule of a plug-in cannot stand",
        """\
The rule's own `check` says so, and why. `r2d2c ops --credit` lists the rules there are.

    def check(link):
        if link.labels is None:
            link.refuse("no target is a class label", "give the link another credit")""",
    ),
    Entry(
        "E254",
        "a kind of op graphs of a plug-in that cannot be",
        """\
A kind is one record: a name that no other kind has, how many arguments, and its value as a formula of `a`, `b` and `c`
with `+ - * /`, numbers, comparisons and some functions. All else is made of the formula: kernels, gradients, ONNX,
written Python. Gradients that are given are compared with it.

    OP_KINDS = (OpKind("swirl", 2, "sin(a * b", doc="sin(ab)"),)
    OP_KINDS = (OpKind("swirl", 2, "sin(a * b)", doc="sin(ab)"),)""",
    ),
)
