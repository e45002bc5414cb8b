"""Kinds of op graphs that cannot be."""

from r2d2c.opkinds import OpKind

OP_KINDS = (
    OpKind("swirl", 2, "sin(a * b"),
    OpKind("gauss", 1, "exp(-a * a)"),
    OpKind("turned", 2, "a * b", ("g * b", "g * b")),
    OpKind("norm", 3, "sqrt(a * a + b * b)"),
    OpKind("cubic", 1, "cube(a)"),
)
