"""Diagnostics 2xx: names, dims, arguments."""

from __future__ import annotations

from r2d2c.diagnostics.codes_blocks import BLOCKS
from r2d2c.diagnostics.entry import Entry

NAMES: tuple[Entry, ...] = (
    Entry(
        "E201",
        "a name that is not defined",
        """\
Nothing here has this name. Inside a task its own values go by their plain names, those of other tasks by
`task.name`; a value exists from its statement on. Inputs, and outside of behaviors targets, can be read
everywhere; a block sees only its parameters and dims.

    behavior: |
      h = relu(a)             # `a` comes later
      a = linear(x, 8)

    behavior: |
      a = linear(x, 8)
      h = relu(a)""",
    ),
    Entry(
        "E202",
        "a value has no parts",
        """\
A dot follows a name of a task, a layer or its storage (`encode.h`, `first.weight`). What an expression
computes has no parts.

    h = relu(x).shape
    h = relu(x)""",
    ),
    Entry(
        "E203",
        "something that cannot be called",
        """\
Brackets after a name call an op or a block. A value, a dim or a number is none; a product needs its `*`.

    h = x(2)
    h = x * 2""",
    ),
    Entry(
        "E204",
        "an index that cannot be",
        """\
An index is made of integers, slices and `...`, or of one tensor of integers that comes last, behind whole
axes.

    h = x[0.5]
    h = x[ids, ids]

    h = x[0, 1:3, ..., -1]
    h = x[:, ids]""",
    ),
    Entry(
        "E205",
        "arithmetic that has no result",
        """\
Numbers and dims are computed when compiling. This one divides by zero, is too large for 64 bits, or is not
defined for such operands.

    h = linear(x, H // 0)
    h = linear(x, H // 2)""",
    ),
    Entry(
        "E206",
        "something that is not a value",
        """\
A value is expected: the name of one, a call, a number. The name of an op alone is none until it is called.

    h = linear(relu, 8)
    h = linear(relu(x), 8)""",
    ),
    Entry(
        "E207",
        "an op or a block that does not exist",
        """\
Neither the ops nor the blocks of this spec (its own, and those it imports) have this name. `r2d2c ops`
lists all ops. Ops of your own come from a plug-in: `--plugin mine.py`.

    h = x |> liner(8)
    h = x |> linear(8)""",
    ),
    Entry(
        "E210",
        "as many names as values",
        """\
The left side of `=` has more or fewer names than the right side has values.

    a, b = split(x, 3)
    a, b, c = split(x, 3)""",
    ),
    Entry(
        "E211",
        "one name for two things",
        """\
Inputs, targets, tasks and losses share one space of names, and so do the values of a task's behavior and of
its representative; otherwise it could not be said which one is meant.

    inputs:
      h: f32[B, 8]
    tasks:
      h:                       # a task of the same name
        behavior: out = linear(h, 8)

    tasks:
      encode:
        behavior: out = linear(h, 8)""",
    ),
    Entry(
        "E212",
        "a weight that is not a number",
        """\
The weight of a loss is a number that is known when compiling; it may be computed from dims.

    weight: mean(h)
    weight: 0.3""",
    ),
    Entry(
        "E213",
        "a dim with a size it cannot have",
        """\
A size is at least 1, and a range at least starts there. `B` (the batch) and `T` (time) are known only when
the model runs, so they have no size in `dims`.

    dims: {B: 32, H: 4 - 4}
    dims: {H: 4}""",
    ),
    Entry(
        "E214",
        "a size that is no integer or dim",
        """\
The dims of a type are integers, names from `dims` (or `B` and `T`), and integer arithmetic with them.

    inputs:
      x: f32[B, N]            # no `N` in dims

    dims: {N: 64}
    inputs:
      x: f32[B, N]""",
    ),
    Entry(
        "E215",
        "not a dtype",
        """\
The dtypes are f64, f32, bf16, f16, i64, i32, i16, i8, u8 and bool.

    x: float32[B, 8]
    x: f32[B, 8]""",
    ),
    Entry(
        "E216",
        "a name that torch modules have themselves",
        """\
Tasks, values and layers with parameters become attributes of a torch module, so they cannot be called like
one of its own (`weight`, `forward`, `training`, …).

    tasks:
      forward:
        behavior: h = linear(x, 8)

    tasks:
      encode:
        behavior: h = linear(x, 8)""",
    ),
    Entry(
        "E217",
        "a size that no input gives",
        """\
`B`, `T` and run-time ranges get their sizes from the axes of the inputs (where targets can be read, of
those too). A dim that is no axis of any has no size to compute with.

    dims: {depth: 1..8, D: 64}
    inputs:
      x: f32[B, D]
    behavior: h = x / depth

    inputs:
      x: f32[B, depth, D]
    behavior: h = sum(x, 1) / depth""",
    ),
    Entry(
        "E221",
        "too many arguments",
        """\
The call has more arguments than the op or block takes; the usage shows them. A value that is piped in by
`|>` is the first.

    h = x |> relu(x)
    h = x |> relu""",
    ),
    Entry(
        "E222",
        "an argument without a name after one with a name",
        """\
Arguments without names come first, since their place says which they are.

    h = linear(x, bias=false, 64)
    h = linear(x, 64, bias=false)""",
    ),
    Entry(
        "E223",
        "an argument given twice",
        """\
The same argument has two values, once by its place and once by its name, or twice by its name.

    h = linear(x, 64, out=32)
    h = linear(x, 64)""",
    ),
    Entry(
        "E224",
        "an argument that does not exist",
        """\
The op or block has no argument of this name; the usage shows those it has. Ops with parameters take
`name=`, `init=` and `frozen=` as well, blocks `name=`, `repeat=` and `shared=`.

    h = linear(x, 64, biass=false)
    h = linear(x, 64, bias=false)""",
    ),
    Entry(
        "E225",
        "an argument is missing",
        """\
The op or block cannot do without it.

    h = linear(x)
    h = linear(x, 64)""",
    ),
    Entry(
        "E226",
        "an argument of the wrong kind",
        """\
Attributes are known when compiling: an integer, a number, true or false, a size, one of a few words, or a
text in quotes, as the message says. A computed value cannot take their place.

    h = softmax(x, axis=last)
    h = softmax(x, axis=-1)""",
    ),
    Entry(
        "E227",
        "a layer name that is taken",
        """\
`name=` names the parameters of a layer, so two layers of a task cannot share it. To share the parameters
themselves, read them: `weight=first.weight`.

    h = x |> linear(8, name=a) |> linear(8, name=a)
    h = x |> linear(8, name=a) |> linear(8, weight=a.weight, bias=a.bias)""",
    ),
    Entry(
        "E228",
        "not an initialiser",
        """\
`init=` is a number (for a constant) or one of zeros, ones, constant(c), normal(std), uniform(bound),
xavier, xavier_normal, kaiming, kaiming_normal, orthogonal(gain), eye.

    h = linear(x, 8, init=gaussian(0.02))
    h = linear(x, 8, init=normal(0.02))""",
    ),
    Entry(
        "E229",
        "a negative size",
        """\
The arithmetic of a size gave a number below 0.

    dims: {H: 4}
    h = linear(x, H - 8)
    h = linear(x, H)""",
    ),
    *BLOCKS,
)
