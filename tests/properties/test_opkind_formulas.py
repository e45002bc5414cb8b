"""Random formulas of kinds: their kernels and derived gradients against PyTorch's autograd of the same text."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r2d2c.lower.opgraph_kernels import _kernel, numpy_arrays, torch_arrays
from r2d2c.opkind_formulas import FormulaError, check
from r2d2c.opkinds import OpKind

NUMBERS = st.sampled_from(["2", "0.5", "1", "-3", "0"])
LEAVES = st.sampled_from(["a", "b", "c"]) | NUMBERS


def _more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = ["tanh", "sin", "cos", "arctan", "square", "abs", "sigmoid", "softplus", "relu", "sign"]
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]} / (1 + abs({t[1]})))"),
        st.tuples(st.sampled_from(names), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(["maximum", "minimum"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        # As a number: PyTorch has to be told.
        st.tuples(inner, st.sampled_from(["<", ">", "<=", ">="]), inner).map(lambda t: f"N({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, inner, inner, inner).map(lambda t: f"where({t[0]} > {t[1]}, {t[2]}, {t[3]})"),
        inner.map(lambda t: f"-{t}"),
        inner.map(lambda t: f"exp(-square({t}))"),
        inner.map(lambda t: f"log(1 + abs({t}))"),
        inner.map(lambda t: f"sqrt(square({t}) + 0.1)"),
    )  # fmt: skip


def _pair(one: Any, other: Any) -> tuple[Any, Any]:
    like = next((v for v in (one, other) if isinstance(v, torch.Tensor)), torch.zeros(()))
    return tuple(v if isinstance(v, torch.Tensor) else torch.full_like(like, v) for v in (one, other))  # type: ignore[return-value]


def _larger(one: Any, other: Any) -> Any:
    one, other = _pair(one, other)
    return torch.where(one > other, one, other)


SCOPE: dict[str, Any] = {
    **{n: getattr(torch, n) for n in ("tanh", "sin", "cos", "square", "abs", "sigmoid", "relu", "sign", "exp", "log", "sqrt")},
    "arctan": torch.atan,
    "N": lambda held: held.double() if isinstance(held, torch.Tensor) else float(held),
    "softplus": lambda x: torch.nn.functional.softplus(x, threshold=1e9),
    "maximum": _larger,
    "minimum": lambda x, y: -_larger(-x, -y),
    "where": lambda held, x, y: torch.where(held, *_pair(x, y)),
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.recursive(LEAVES, _more, max_leaves=8), st.integers(0, 1000))
def test_kernels_of_random_formulas(written: str, seed: int) -> None:
    text = written.replace("N(", "(")
    try:
        read = check(text, "abc", "it")
    except FormulaError:
        read = set()
    assume(read)  # a part of numbers alone is refused
    generator = torch.Generator().manual_seed(seed)
    given = [torch.randn(3, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in "abc"]
    value = eval(written, dict(SCOPE), dict(zip("abc", given, strict=True))) * 1.0
    value = value.double().expand(3, 8) if value.dtype != torch.float64 else value
    slope = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    wanted: list[Any] = [None, None, None]
    if value.requires_grad:
        wanted = list(torch.autograd.grad(value, given, slope, allow_unused=True))
    kind = OpKind("random", 3, text)
    for library in (numpy_arrays(), torch_arrays()):
        kernel = _kernel(kind, library.kernels.calls)  # type: ignore[attr-defined]
        parts = [library.of(p.detach().clone()) for p in given]
        out, *places = (library.of(torch.empty(3, 8, dtype=torch.float64)) for _ in range(4))
        kernel.forward(parts, 0, out)
        kernel.backward(parts, 0, out, library.of(slope), places)
        torch.testing.assert_close(library.tensor(out), value.detach(), atol=1e-9, rtol=1e-7)
        for place, other in zip(places, wanted, strict=True):
            found = library.tensor(place)
            torch.testing.assert_close(
                found, torch.zeros_like(found) if other is None else other, atol=1e-8, rtol=1e-6
            )
        assert all(torch.equal(library.tensor(p), q.detach()) for p, q in zip(parts, given, strict=True))
