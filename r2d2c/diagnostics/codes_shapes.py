"""Diagnostics 3xx: types and shapes."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SHAPES: tuple[Entry, ...] = (
    Entry(
        "E301",
        "types that do not fit",
        """\
An op cannot work on values of these types. The labels say what each argument is and where it was made; two
dims fit if they are the same name or number, and in arithmetic also if one of them is 1.

    inputs:
      x: f32[B, 64]
    behavior: h = linear(x, 32) + x               # 32 and 64

    behavior: h = linear(x, 64) + x""",
    ),
    Entry(
        "E302",
        "a loss that is not a scalar",
        """\
What is minimised is one floating number. A distance gives one (with its default `reduction=mean`); anything
else needs a mean or a sum over all axes.

    value: (h - r) ^ 2
    value: mean((h - r) ^ 2)""",
    ),
    Entry(
        "E303",
        "`feed` of another type",
        """\
What a link feeds takes the place of the value that its task reads, so it has the same type.

    encode:
      behavior: h = linear(x, 64)
      representative: r = one_hot(y, C) |> linear(32)   # 64, to be fed
    links:
      encode.h -> classify: {credit: local, feed: encode.r}""",
    ),
    Entry(
        "E305",
        "one shared block for two types",
        """\
With `shared=true` all copies of a block have the same parameters, so each must get values of the same type.

    blocks:
      half(x, width): return linear(x, width)
    h = half(x, 32, repeat=2, shared=true)      # 64 -> 32, then 32 -> 32

    h = half(x, 64, repeat=2, shared=true)      # 64 -> 64, both times""",
    ),
    Entry(
        "W306",
        "integers with two limits",
        """\
The same integers say a class or a place, once among n and once among m. At least one of them is too many or
too few; if the smaller is right, write it in both places.

    a = embedding(ids, 100, 8)
    b = one_hot(ids, 10)         # are they below 10 or below 100?
    b = one_hot(ids, 100)""",
    ),
    Entry(
        "E310",
        "a parameter of unknown size",
        """\
The sizes of parameters are fixed when compiling. A dim that is `infer` must follow from something whose
size is known, and `B`, `T` and run-time ranges are known only when the model runs.

    dims: {D: infer}
    inputs:
      x: f32[B, D]
    behavior: h = linear(x, 8)     # the weight is [8, D]

    dims: {D: 64}""",
    ),
)
