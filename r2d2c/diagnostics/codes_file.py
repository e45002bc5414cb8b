"""Diagnostics 0xx: files and YAML."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

FILE: tuple[Entry, ...] = (
    Entry(
        "E001",
        "the file does not exist",
        """\
There is no file at the path that was given. Paths are relative to the folder r2d2c runs in, and those of
`imports` to the folder of the spec that imports.

    r2d2c check spce.yaml        # the file is spec.yaml

`r2d2c new spec.yaml` writes a spec to start from.""",
    ),
    Entry(
        "E002",
        "the file cannot be read",
        """\
The file is there, but the system refuses to read it; the message gives its reason.

    chmod a-r spec.yaml
    r2d2c check spec.yaml        # permission denied

Give yourself the right to read it, or copy it.""",
    ),
    Entry(
        "E003",
        "a folder stands where a spec is expected",
        """\
A spec is one YAML file. Name the file, not its folder.

    r2d2c check specs/digits             # a folder
    r2d2c check specs/digits/two.yaml    # a spec""",
    ),
    Entry(
        "E004",
        "the file is not UTF-8",
        """\
Specs are UTF-8 text. The message gives the offset of the first byte that is not, and the line is shown
up to it. Editors call the remedy "save with encoding"; on a command line:

    iconv -f latin1 -t utf-8 old.yaml > new.yaml""",
    ),
    Entry(
        "E005",
        "the file is empty",
        """\
Nothing stands in the file but blank lines and comments. The smallest spec has these parts:

    r2d2c: 1
    inputs:
      x: f32[B, 4]
    targets:
      y: f32[B, 1]
    tasks:
      fit:
        behavior: p = linear(x, 1)
        distance: mse(p, y)
    outputs:
      p: fit.p""",
    ),
    Entry(
        "E006",
        "the file is binary",
        """\
The file contains a NUL byte, which no text has. It may be a checkpoint, an archive or a model where a
spec is expected.

    r2d2c check run/model.onnx       # `r2d2c inspect` reads models
    r2d2c check run/spec.yaml""",
    ),
    Entry(
        "E007",
        "the file is too large",
        """\
A spec may have 16 MiB. One so large was written by a program or is no spec at all. What is repeated
belongs in a block, with `repeat:` or a name:

    blocks:
      layer(x, width): |
        return x |> linear(width) |> relu

Data does not belong in a spec: name a data source under `train.data`.""",
    ),
    Entry(
        "E010",
        "the text is not YAML",
        """\
YAML itself cannot read the text, so nothing in it was checked. What specs get wrong most:

    behavior: x: h |> relu       # a second `: ` in one value
    value: 'mse' * 2             # the quotes end the value
    body: |> relu                # `|` starts a block of text
      classify:                  # indentation that fits no line above

An expression that YAML misreads goes in quotes, or in a block on the lines below:

    value: "x[1: ]"
    body: |
      h = x |> relu""",
    ),
    Entry(
        "E011",
        "an expression is cut into pieces by YAML",
        """\
Inside {…} and […], the characters `[`, `]`, `{`, `}`, `,` and ` #` have a meaning of their own to YAML,
so an expression that uses them does not arrive in one piece. Sometimes YAML even accepts the pieces:

    inputs: {x: f32[B, D]}                 # YAML stops at the `[`
    metrics: [accuracy(logits, y)]         # two items, `accuracy(logits` and `y)`
    encode: {behavior: a, b = split(x)}    # a second key, `b = split(x)`
    behavior: [a, b] |> concat             # a list, then text after it

Write the expression on a line of its own, or in quotes:

    inputs:
      x: f32[B, D]
    metrics:
      - accuracy(logits, y)
    distance: "(h, r) |> mse\"""",
    ),
    Entry(
        "E012",
        "a tab indents a line",
        """\
YAML indents with spaces only. Replace each tab by two spaces, and tell your editor to do so in .yaml
files.

    tasks:
    <tab>encode:        # a tab
      encode:           # two spaces""",
    ),
    Entry(
        "E013",
        "a space is missing after a colon",
        """\
A key ends with a colon and a space. Without the space YAML reads key and value as one text.

    dims: {D:64}        # the text `D:64`
    dims: {D: 64}       # D is 64""",
    ),
    Entry(
        "E014",
        "a key is given twice",
        """\
The same key stands twice in one map. Most YAML readers silently keep the last one; here both places are
shown, and one of them has to go or be renamed.

    dims:
      H: 64
      C: 10
      H: 128            # the second H""",
    ),
    Entry(
        "E015",
        "a key is not a name",
        """\
Keys are plain text. YAML also allows lists and maps as keys; no spec needs them. The usual cause is a
`?`, or a bracket at the start of a line.

    ? [a, b]
    : 1
    a: 1""",
    ),
    Entry(
        "E016",
        "a YAML tag",
        """\
A tag such as `!!python/object` asks YAML to build an object. A spec is data, so tags are refused. To an
expression, `not` is what `!` may have been meant for.

    epochs: !!int "3"
    epochs: 3""",
    ),
    Entry(
        "E017",
        "more than one document",
        """\
A file holds one spec. A line of `---` starts another document, and `...` ends one; remove it, or put the
second spec into a file of its own.

    r2d2c: 1
    ---
    r2d2c: 1""",
    ),
    Entry(
        "E018",
        "a merge key",
        """\
`<<: *base` is an extension of older YAML. Anchors and aliases work; for what is shared with changes, a
block with parameters says it with names.

    tasks:
      a: &base {weight: 2}
      b: {<<: *base}         # refused

    blocks:
      layer(x, width=64): |
        return x |> linear(width) |> relu""",
    ),
    Entry(
        "E019",
        "nested too deeply",
        """\
Maps and lists may be nested 100 levels deep. No spec comes near that; a bracket that is never closed,
repeated by a program, does. Nesting of blocks and tasks is written by name, not by indentation.

    a: [[[[[[[[ ...""",
    ),
    Entry(
        "E020",
        "too many values",
        """\
A file may hold 1,000,000 values, and its aliases may add 100,000. A few lines of aliases of aliases can
stand for billions of values, which is a known way to attack a reader of YAML.

    a: &a [x, x, x, x, x, x, x, x, x]
    b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
    c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
    ...""",
    ),
    Entry(
        "E021",
        "an alias inside what it names",
        """\
`*a` stands for the whole value that `&a` marks, so inside that value it would never end.

    tasks: &t
      encode: *t

Blocks cannot call themselves either; what is repeated belongs in a loop.""",
    ),
    Entry(
        "E022",
        "an alias that names nothing",
        """\
To YAML, a value that starts with `*` is an alias of a value marked with `&` further up.

    value: *loss            # there is no `&loss`
    size: *2

If an expression was meant, it cannot start with `*`; put in what is to be multiplied.""",
    ),
    Entry(
        "E024",
        "a spec is a map",
        """\
At its top, a spec is a map of sections: lines of `key: value`. This file is a list or a text.

    - r2d2c: 1              # a list of one map
    r2d2c: 1                # a map""",
    ),
    Entry(
        "E025",
        "a character that cannot stand in a spec",
        """\
YAML allows no control characters besides tab and line breaks, and no half of a surrogate pair. They are
invisible in most editors and come with pasted text; delete the character that is marked.""",
    ),
    Entry(
        "E026",
        "a malformed --set",
        """\
`--set` takes a key and a value with `=` between them. The key is a path of names with dots between; the
value is YAML.

    --set dims.H=128
    --set "train.optimizer=adam(lr=1e-3)"
    --set "links.encode.h -> classify.credit=local\"""",
    ),
    Entry(
        "E027",
        "--set names a key that is not there",
        """\
All but the last name of a `--set` path must exist in the spec (or be a section that may be added). The
last may be new; whether it is allowed is checked as if it stood in the spec.

    --set dim.H=128         # the section is `dims`
    --set tasks.encod.weight=2""",
    ),
)
