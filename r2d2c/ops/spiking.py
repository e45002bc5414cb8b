"""Spiking neurons, and plasticity by the times of spikes."""

from __future__ import annotations

import math
from typing import Any

from r2d2c.ops.dims import expect_same_dtype, onnx_range
from r2d2c.ops.record import Arg, Example, Op, ShapeError, Shapes
from r2d2c.ops.shapes import expect_floating
from r2d2c.ops.unary import expect_tensor
from r2d2c.types import DimLike, TensorType


def _lif_shape(s: Shapes, a: Any) -> tuple[TensorType, TensorType]:
    for name, type_ in (("v", a.v), ("current", a.current)):
        expect_tensor(type_, name, "`lif`")
        expect_floating(type_, name)
    expect_same_dtype(a.v, a.current, "v", "current")
    if a.v.rank != a.current.rank or not all(map(s.unify, a.v.dims, a.current.dims)):
        raise ShapeError(
            f"every neuron has a current: `v` is {a.v}, and `current` {a.current}", "current", "v"
        )
    if not a.threshold > 0:
        raise ShapeError(f"a threshold is above 0, where neurons rest, and not {a.threshold:g}", "threshold")
    if not 0 <= a.decay <= 1:
        raise ShapeError(f"what is left after a step is from 0 to 1, and not {a.decay:g}", "decay")
    return a.v, a.v


def _lif_lower(b: Any, a: Any) -> tuple[Any, Any]:
    v = b("torch.add", b("torch.mul", a.v, a.decay), a.current)
    z = b.method("to", b("torch.ge", v, a.threshold), b.python(getattr, v, "dtype"))
    left = b("torch.sub", v, b("torch.mul", z, a.threshold))
    if not b.training:
        return left, z
    # A number that is 0 and has the derivative of a spike: s - s, where s has it.
    away = b("torch.div", b("torch.abs", b("torch.sub", b.method("detach", v), a.threshold)), a.threshold)
    slope = b("torch.mul", b("torch.relu", b("torch.rsub", away, 1.0)), a.dampening)
    surrogate = b("torch.mul", v, slope)
    return left, b("torch.add", z, b("torch.sub", surrogate, b.method("detach", surrogate)))


def _lif_onnx(o: Any, a: Any) -> tuple[Any, Any]:
    dtype = o.out[0].dtype
    threshold = o.const(a.threshold, dtype)
    v = o("Add", o("Mul", a.v, o.const(a.decay, dtype)), a.current)
    z = o.cast(o("Not", o("Less", v, threshold)), dtype)
    return o("Sub", v, o("Mul", z, threshold)), z


LIF = Op(
    "lif",
    "Leaky integrate-and-fire neurons, one step: `v, z = lif(v, current)`. The potential decays, takes in the current, "
    "and where it reaches the threshold the neuron spikes (z is 1, else 0) and has that much less. In the backward a "
    "spike has the slope γ max(0, 1 - |v - threshold| / threshold), and the reset is a constant (Bellec et al., 2020).",
    (
        Arg("v", doc="potentials, any shape"),
        Arg("current", doc="what comes in, as many"),
        Arg("decay", "float", 0.9, doc="what is left of the potential after a step: exp(-1 / τ)"),
        Arg("threshold", "float", 1.0, doc="the potential that makes a spike"),
        Arg("dampening", "float", 0.3, doc="γ, the slope of a spike at the threshold"),
    ),
    _lif_shape,
    _lif_lower,
    _lif_onnx,
    outputs=("v", "z"),
    examples=(
        Example("lif(v, current)", {"v": "f32[3, 4]", "current": "f32[3, 4]"}, gradient=False),
        Example(
            "lif(v, current, decay=0.5, threshold=0.7, dampening=1.0)",
            {"v": "f64[2, 3]", "current": "f64[2, 3]"},
            gradient=False,
        ),
    ),
)


# -- the times of spikes


def _stdp_shape(s: Shapes, a: Any) -> TensorType:
    for name, type_ in (("pre", a.pre), ("post", a.post)):
        expect_tensor(type_, name, "`stdp`")
        expect_floating(type_, name)
        if type_.rank != 3:
            raise ShapeError(f"spikes are [B, T, units], and `{name}` is {type_}", name)
    expect_same_dtype(a.pre, a.post, "pre", "post")
    if not all(map(s.unify, a.pre.dims[:2], a.post.dims[:2])):
        raise ShapeError(f"`pre` is {a.pre} and `post` {a.post}: not of the same steps", "pre", "post")
    for name in ("tau_plus", "tau_minus"):
        if not getattr(a, name) > 0:
            raise ShapeError(f"`{name}` is a number of steps above 0", name)
    return TensorType(a.pre.dtype, (a.post.dims[2], a.pre.dims[2]))


def _stdp_lower(b: Any, a: Any) -> Any:
    kept, lost = math.exp(-1.0 / a.tau_plus), math.exp(-1.0 / a.tau_minus)
    return b("r2d2c.ops.functions.stdp", a.pre, a.post, a.plus, a.minus, kept, lost)


def _stdp_onnx(o: Any, a: Any) -> Any:
    """By the weights of all pairs of steps, [T, T]."""
    steps, dtype = onnx_range(o, o.type("pre").dims[1]), o.out[0].dtype
    later, earlier = o("Unsqueeze", steps, o.ints([1])), o("Unsqueeze", steps, o.ints([0]))
    apart = o.cast(o("Sub", later, earlier), dtype)

    def kernel(tau: float, factor: float, nearest: float) -> Any:
        decayed = o("Exp", o("Div", o("Max", apart, o.const(0, dtype)), o.const(-tau, dtype)))
        counts = o.cast(o("Greater", apart, o.const(nearest - 0.5, dtype)), dtype)
        return o("Mul", o("Mul", decayed, counts), o.const(factor, dtype))

    across = o("Transpose", a.post, perm=[0, 2, 1])
    gained = o("MatMul", across, o("MatMul", kernel(a.tau_plus, a.plus, 0), a.pre))
    after = o("Transpose", o("MatMul", kernel(a.tau_minus, a.minus, 1), a.post), perm=[0, 2, 1])
    change = o("Sub", gained, o("MatMul", after, a.pre))
    return o("ReduceMean", change, o.ints([0]), keepdims=0)


def _stdp_cost(a: Any) -> DimLike:
    batch, steps, units = a.pre.dims
    cost: DimLike = 4 * batch * steps * units * a.post.dims[2]
    return cost


STDP = Op(
    "stdp",
    "How the weights from `pre` to `post` change by the times of their spikes, the mean over samples: a pair with post "
    "Δ ≥ 0 steps after pre adds plus·exp(-Δ / tau_plus), one with post Δ > 0 steps before pre takes off "
    "minus·exp(-Δ / tau_minus); all pairs count.",
    (
        Arg("pre", doc="spikes that come in, [B, T, in]"),
        Arg("post", doc="spikes that are made, [B, T, out]"),
        Arg("plus", "float", 1.0, doc="A₊"),
        Arg("minus", "float", 1.0, doc="A₋"),
        Arg("tau_plus", "float", 20.0, doc="τ₊, in steps"),
        Arg("tau_minus", "float", 20.0, doc="τ₋, in steps"),
    ),
    _stdp_shape,
    _stdp_lower,
    _stdp_onnx,
    outputs=("change",),
    mixes=lambda a: [("pre", 0), ("pre", 1), ("post", 0), ("post", 1)],
    traits=frozenset({"no_gradient"}),
    cost=_stdp_cost,
    examples=(
        Example("stdp(pre, post)", {"pre": "f32[2, 5, 3]", "post": "f32[2, 5, 4]"}, gradient=False),
        Example(
            "stdp(pre, post, plus=0.5, minus=0.25, tau_plus=3.0, tau_minus=7.0)",
            {"pre": "f64[1, 6, 2]", "post": "f64[1, 6, 2]"},
            gradient=False,
        ),
    ),
)

OPS = (LIF, STDP)
