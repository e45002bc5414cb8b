"""Op records. `registry()` is the literal table of the built-in ones."""

from r2d2c.ops.record import Arg, Example, Op, ParamSpec, ShapeError

__all__ = ["Arg", "Example", "Op", "ParamSpec", "ShapeError"]
