"""What a hypernet says: how the parameters of an op follow from a context.

Ha, Dai and Le, HyperNetworks, 2016; von Oswald et al., Continual learning with hypernetworks, 2020 (chunks).
With the code h of a context c (`code` nodes), a parameter (`generate` nodes) is, by mode:

* full: W(c) = W0 + Σ_j h_j T_j
* factors: W(c) = [W0 +] U diag(s(c)) V, s = S h + t
* scale: W(c) = (1 + A h) ⊙ W0, along the outputs

Vectors (biases, factors of norms) are generated in full; `scale` scales those that are no biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from r2d2c.graph import Init
from r2d2c.source import Span
from r2d2c.types import Dim, DimLike, TensorType

Mode = Literal["full", "factors", "scale"]
MODES = ("full", "factors", "scale", "shared")
ACTS = ("tanh", "relu", "gelu", "silu", "sigmoid", "none")
NORMALISE = ("none", "frobenius", "rows")
# The names of the outputs of a `code` node, and of the ports that bring them into blocks.
CODES = ("code", "parts")
# Where the generated part is not drawn: a parameter that starts as a constant starts near it for every context.
SMALL = Init("normal", (0.1,))


@dataclass(frozen=True, slots=True)
class Hypernet:
    """A hypernet's options. ``hidden``: the width of the code; without it the code is the scaled context."""

    name: str
    mode: Mode = "full"
    hidden: int | None = None
    act: str = "tanh"
    rank: int | None = None
    base: bool = True
    chunks: int | None = None
    normalise: str = "none"
    origin: Span | None = None

    @property
    def codes(self) -> tuple[str, ...]:
        return CODES if self.chunks is not None else CODES[:1]

    def ports(self) -> tuple[str, ...]:
        """The ports of its codes in blocks. They have a dot, which no parameter of a block has."""
        return tuple(f"{self.name}.{code}" for code in self.codes)

    def refuses(self, context: TensorType) -> str | None:
        """Why a value of this type cannot be a context; None if it can."""
        if context.rank < 1 or context.weak or not context.floating:
            return f"a hypernet generates from floats, `f32[B, S]`, and `from` is {context}"
        width = context.dims[-1]
        if isinstance(width, Dim) and not all(name.startswith("?") for name in width.symbols()):
            return (
                f"the last dim of `from` is {width}, which only the run knows: its size is that of parameters"
            )
        return None

    def types(self, context: TensorType) -> tuple[TensorType, ...]:
        """The types of its codes, in the order of `codes`."""
        lead, width = context.dims[:-1], self.hidden if self.hidden is not None else context.dims[-1]
        code = context.with_dims((*lead, width))
        return (code,) if self.chunks is None else (code, context.with_dims((*lead, self.chunks, width)))


@dataclass(frozen=True, slots=True)
class Generated:
    """A parameter that is generated, as `plan` shows it.

    count: its numbers. held: how many of these are made for every context, ``lead`` the dims of those.
    form: how it is computed, and why.
    """

    hypernet: str
    parameter: str
    mode: str
    form: str
    why: str
    count: int
    held: int
    lead: tuple[DimLike, ...]
    dtype: str
    origin: Span | None = None


def deviation(init: Init, fans: tuple[int, int] | None, dims: tuple[int, ...]) -> float:
    """The standard deviation of the numbers that an initialiser draws; 0 for constants."""
    receptive = math.prod(dims[2:])
    first, second = fans or (dims[1] * receptive, dims[0] * receptive)
    number = float(init.args[0]) if init.args else 1.0
    match init.kind:
        case "kaiming_uniform" | "fan_in_uniform":
            return math.sqrt(1.0 / (3.0 * max(first, 1)))
        case "xavier" | "xavier_normal":
            return math.sqrt(2.0 / (first + second))
        case "kaiming" | "kaiming_normal":
            return math.sqrt(2.0 / max(first, 1))
        case "normal":
            return number
        case "uniform":
            return number / math.sqrt(3.0)
        case "orthogonal":
            return number / math.sqrt(max(dims[0], math.prod(dims[1:])))
        case "eye":
            return math.sqrt(1.0 / max(dims[0], math.prod(dims[1:])))
        case _:
            return 0.0
