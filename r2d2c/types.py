"""Types of values: dtypes, symbolic dims, tensor types, and the unifier of dims.

A dim is a plain int when it is known, else a `Dim`: a polynomial with integer coefficients over symbols (``B``, ``T``)
and floor quotients, kept in one canonical form, so that equal dims compare equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

FLOATS = ("f64", "f32", "bf16", "f16")
INTEGERS = ("i64", "i32", "i16", "i8", "u8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
# A literal in an expression takes the dtype of what it meets: `2 * x` is of x's dtype.
WEAK = ("float", "int")


class Named(int):
    """A known size that remembers the dim it was written as, so that messages can say ``H=256``."""

    name: str

    def __new__(cls, value: int, name: str) -> Named:
        made = super().__new__(cls, value)
        made.name = name
        return made

    def __str__(self) -> str:
        return f"{self.name}={int(self)}"

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]
        return int(self), self.name


class Quotient(NamedTuple):
    """The atom ``numerator // denominator`` or ``numerator % denominator``."""

    numerator: Dim
    denominator: Dim
    remainder: bool = False

    def __str__(self) -> str:
        return f"({self.numerator} {'%' if self.remainder else '//'} {self.denominator})"


Atom: TypeAlias = str | Quotient
Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Dim:
    """A sum of ``coefficient * product of atoms``, sorted. Build with `symbol` and arithmetic, never by hand."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: DimLike) -> DimLike:
        return _make([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> DimLike:
        return _make([(atoms, -factor) for atoms, factor in self.terms])

    def __sub__(self, other: DimLike) -> DimLike:
        return _make([*self.terms, *((atoms, -factor) for atoms, factor in _terms(other))])

    def __rsub__(self, other: DimLike) -> DimLike:
        return _make([*_terms(other), *((atoms, -factor) for atoms, factor in self.terms)])

    def __mul__(self, other: DimLike) -> DimLike:
        return _make(
            [
                (tuple(sorted((*left, *right), key=str)), a * b)
                for left, a in self.terms
                for right, b in _terms(other)
            ]
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and all(factor % other == 0 for _, factor in self.terms):
            return _make([(atoms, factor // other) for atoms, factor in self.terms])
        return _atom(Quotient(self, as_dim(other)))

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return _atom(Quotient(as_dim(other), self)) if other else 0

    def __mod__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and all(factor % other == 0 for _, factor in self.terms):
            return 0
        return _atom(Quotient(self, as_dim(other), True))

    def __rmod__(self, other: DimLike) -> DimLike:
        return _atom(Quotient(as_dim(other), self, True)) if other else 0

    def symbols(self) -> set[str]:
        """Every symbol in it, inside quotients too."""
        found: set[str] = set()
        for atoms, _ in self.terms:
            for atom in atoms:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    found |= atom.numerator.symbols() | atom.denominator.symbols()
        return found

    def __str__(self) -> str:
        parts: list[str] = []
        for atoms, factor in self.terms:
            body = "*".join(str(atom) for atom in atoms)
            text = str(abs(factor)) if not body else body if abs(factor) == 1 else f"{abs(factor)}*{body}"
            parts.append(("- " if factor < 0 else "+ ") + text)
        return (
            " ".join(parts).removeprefix("+ ").replace("- ", "-", 1)
            if parts[0][0] == "-"
            else " ".join(parts)[2:]
        )


DimLike: TypeAlias = int | Dim


def _terms(value: DimLike) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(value, Dim):
        return value.terms
    return (((), int(value)),) if value else ()


def _make(terms: list[tuple[Monomial, int]]) -> DimLike:
    total: dict[Monomial, int] = {}
    for atoms, factor in terms:
        total[atoms] = total.get(atoms, 0) + factor
    kept = tuple(sorted(((a, f) for a, f in total.items() if f), key=lambda t: (-len(t[0]), str(t[0]))))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Dim(kept)


def as_dim(value: DimLike) -> Dim:
    return value if isinstance(value, Dim) else Dim(_terms(value))


def _atom(atom: Atom) -> Dim:
    return Dim((((atom,), 1),))


def symbol(name: str) -> Dim:
    """A dim that is not known when compiling. Names that start with ``?`` are to be inferred."""
    return _atom(name)


def evaluate(dim: DimLike, values: dict[str, int]) -> int:
    """The number a dim stands for. Raises KeyError for a symbol without a value."""
    if isinstance(dim, int):
        return int(dim)
    total = 0
    for atoms, factor in dim.terms:
        for atom in atoms:
            if isinstance(atom, str):
                factor *= values[atom]
            else:
                top, bottom = evaluate(atom.numerator, values), evaluate(atom.denominator, values)
                factor *= top % bottom if atom.remainder else top // bottom
        total += factor
    return total


@dataclass(frozen=True, slots=True)
class TensorType:
    """``f32[B, 64]``. No dims means a scalar."""

    dtype: str
    dims: tuple[DimLike, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATS or self.dtype == "float"

    @property
    def weak(self) -> bool:
        return self.dtype in WEAK

    def with_dims(self, dims: tuple[DimLike, ...] | list[DimLike]) -> TensorType:
        return TensorType(self.dtype, tuple(dims))

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(dtype, self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.dims)}]"


def promote(left: str, right: str) -> str:
    """The dtype of arithmetic between two dtypes, by torch's rules."""
    if left == right:
        return left
    if left in WEAK and right in WEAK:
        return "float"
    for weak, other in ((left, right), (right, left)):
        if weak == "int":
            return "i64" if other == "bool" else other
        if weak == "float":
            return other if other in FLOATS else "f32"
    if left == "bool" or right == "bool":
        return right if left == "bool" else left
    if (left in FLOATS) != (right in FLOATS):
        return left if left in FLOATS else right
    if left in FLOATS:
        if {left, right} == {"f16", "bf16"}:
            return "f32"
        return min(left, right, key=FLOATS.index)
    if "u8" in (left, right):
        other = right if left == "u8" else left
        return "i16" if other == "i8" else other
    return min(left, right, key=INTEGERS.index)


class Unifier:
    """Makes dims equal by binding the symbols that are to be inferred (those named ``?…``)."""

    def __init__(self) -> None:
        self.bound: dict[str, DimLike] = {}

    def resolve(self, dim: DimLike) -> DimLike:
        """``dim`` with every bound symbol replaced."""
        if isinstance(dim, int) or not self.bound or not (dim.symbols() & self.bound.keys()):
            return dim
        total: DimLike = 0
        for atoms, factor in dim.terms:
            product: DimLike = factor
            for atom in atoms:
                if isinstance(atom, str):
                    product = product * (
                        self.resolve(self.bound[atom]) if atom in self.bound else symbol(atom)
                    )
                else:
                    top, bottom = self.resolve(atom.numerator), self.resolve(atom.denominator)
                    product = product * (top % bottom if atom.remainder else top // bottom)
            total = total + product
        return total

    def resolve_type(self, type_: TensorType) -> TensorType:
        if not self.bound:
            return type_
        return TensorType(type_.dtype, tuple(self.resolve(d) for d in type_.dims))

    def unify(self, left: DimLike, right: DimLike) -> bool:
        """Whether both can be the same size, binding what that takes."""
        if left is right or left == right:
            return True
        left, right = self.resolve(left), self.resolve(right)
        if left == right:
            return True
        if isinstance(left, int) and isinstance(right, int):
            return False
        difference = left - right
        if isinstance(difference, int):
            return difference == 0
        for atoms, factor in difference.terms:
            if len(atoms) == 1 and isinstance(atoms[0], str) and atoms[0].startswith("?"):
                rest = difference - _make([(atoms, factor)])
                if isinstance(rest, Dim) and atoms[0] in rest.symbols():
                    continue
                if _divisible(rest, factor):
                    self.bound[atoms[0]] = -(rest // factor) if rest != 0 else 0
                    return True
        return False


def _divisible(dim: DimLike, factor: int) -> bool:
    return all(f % factor == 0 for _, f in _terms(dim))
