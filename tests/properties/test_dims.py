"""The arithmetic of dims and the unifier against integers, and `promote` against torch."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r2d2c.types import DTYPES, WEAK, Dim, DimLike, Unifier, evaluate, promote, symbol

NAMES = ("B", "T", "depth", "?D", "?H")
VALUES = st.fixed_dictionaries({name: st.integers(1, 30) for name in NAMES})


def _apply(operator: str, left: Any, right: Any) -> Any:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return left // right
        case _:
            return left % right


@st.composite
def pairs(draw: st.DrawFn, depth: int = 3, names: tuple[str, ...] = NAMES) -> tuple[DimLike, Any]:
    """A dim, and the same arithmetic as a function of the symbols' values (None: it divides by zero)."""
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            number = draw(st.integers(-6, 12))
            return number, lambda values: number
        name = draw(st.sampled_from(names))
        return symbol(name), lambda values: values[name]
    operator = draw(st.sampled_from(["+", "-", "*", "+", "-", "*", "//", "%"]))
    left, left_of = draw(pairs(depth=depth - 1, names=names))
    right, right_of = draw(pairs(depth=depth - 1, names=names))
    if operator in ("//", "%") and isinstance(right, int) and right == 0:
        operator = "+"

    def value(values: dict[str, int]) -> int:
        return int(_apply(operator, left_of(values), right_of(values)))

    return _apply(operator, left, right), value


@given(pairs(), VALUES)
@settings(max_examples=500, deadline=None)
def test_arithmetic_is_that_of_integers(pair: tuple[DimLike, Any], values: dict[str, int]) -> None:
    dim, value = pair
    try:
        expected = value(values)
    except ZeroDivisionError:
        assume(False)
        return
    assert evaluate(dim, values) == expected


@given(pairs(depth=2), pairs(depth=2), pairs(depth=2))
@settings(max_examples=300, deadline=None)
def test_equal_dims_have_one_form(one: Any, two: Any, three: Any) -> None:
    a, b, c = one[0], two[0], three[0]
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert hash(a + b) == hash(b + a)
    assert not isinstance(a, Dim) or a.terms


@given(pairs())
@settings(max_examples=200, deadline=None)
def test_a_dim_prints(pair: tuple[DimLike, Any]) -> None:
    assert str(pair[0])


@given(pairs(), pairs(), VALUES)
@settings(max_examples=500, deadline=None)
def test_what_was_unified_is_equal(left: Any, right: Any, values: dict[str, int]) -> None:
    unifier = Unifier()
    if not unifier.unify(left[0], right[0]):
        return
    one, two = unifier.resolve(left[0]), unifier.resolve(right[0])
    for dim in unifier.bound.values():
        # No symbol is bound to something made of itself.
        resolved = unifier.resolve(dim)
        assert isinstance(resolved, int) or not resolved.symbols() & unifier.bound.keys()
    try:
        assert evaluate(one, values) == evaluate(two, values)
    except ZeroDivisionError:
        assume(False)


@given(pairs(names=("B", "T")), pairs(names=("B", "T")), VALUES)
@settings(max_examples=300, deadline=None)
def test_nothing_is_bound_that_is_not_to_be_inferred(left: Any, right: Any, values: dict[str, int]) -> None:
    unifier = Unifier()
    same = unifier.unify(left[0], right[0])
    assert not unifier.bound
    if same:
        try:
            assert evaluate(left[0], values) == evaluate(right[0], values)
        except ZeroDivisionError:
            assume(False)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_an_inferred_dim_is_found(factor: int, size: int, rest: int) -> None:
    unifier = Unifier()
    assert unifier.unify(factor * symbol("?D") + rest, factor * size + rest)
    assert unifier.resolve(symbol("?D")) == size
    assert not unifier.unify(symbol("?D"), size + 1)
    if factor > 1:
        assert not Unifier().unify(factor * symbol("?H"), factor * size + 1)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=6), st.integers(1, 9))
def test_a_chain_of_equal_symbols(links: list[tuple[str, str]], size: int) -> None:
    unifier = Unifier()
    for left, right in links:
        unifier.unify(symbol(left), symbol(right))
    for name in NAMES:
        resolved = unifier.resolve(symbol(name))
        assert unifier.resolve(resolved) == resolved


# -- dtypes

TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
NUMBERS = {"float": 1.5, "int": 2}


@pytest.mark.parametrize(("left", "right"), list(itertools.product(DTYPES, DTYPES)))
def test_promote_is_torchs(left: str, right: str) -> None:
    assert TORCH[promote(left, right)] == torch.promote_types(TORCH[left], TORCH[right])


@pytest.mark.parametrize(("dtype", "weak"), list(itertools.product(DTYPES, WEAK)))
def test_promote_with_a_number_is_torchs(dtype: str, weak: str) -> None:
    expected = torch.result_type(torch.ones(1, dtype=TORCH[dtype]), NUMBERS[weak])
    assert TORCH[promote(dtype, weak)] == expected
    assert promote(weak, dtype) == promote(dtype, weak)


@pytest.mark.parametrize(("left", "right"), list(itertools.product(WEAK, WEAK)))
def test_promote_of_numbers_is_pythons(left: str, right: str) -> None:
    assert promote(left, right) == type(NUMBERS[left] + NUMBERS[right]).__name__
