"""The ops of which an element of the result depends on the elements at its place alone."""

from __future__ import annotations

ELEMENTWISE = frozenset((
    "add", "sub", "mul", "div", "remainder", "pow", "maximum", "minimum", "clamp", "multiply_add",
    "neg", "abs", "sign", "square", "reciprocal", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos",
    "floor", "ceil", "round", "cast",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "where", "isnan",
    "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "sigmoid",
    "log_sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "gauss", "lif",
))  # fmt: skip
