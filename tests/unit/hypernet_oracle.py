"""Hypernets written out in torch, for one context; and models with one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import r2d2c
from r2d2c.model import Model

B, S, K = 3, 5, 4
MODES = {
    "full": "hidden: 4",
    "no base": "hidden: 4\n    base: false",
    "no code layer": "mode: full",
    "factors": "hidden: 4\n    rank: 2",
    "factors with base": "hidden: 4\n    rank: 2\n    base: true",
    "scale": "hidden: 4\n    mode: scale",
    "chunks": "hidden: 4\n    chunks: 3",
    "frobenius": "hidden: 4\n    normalise: frobenius",
    "rows": "hidden: 4\n    normalise: rows",
    "factors, rows": "hidden: 4\n    rank: 2\n    normalise: rows",
    "factors, frobenius": "hidden: 4\n    rank: 2\n    normalise: frobenius",
    "chunks, rows": "hidden: 4\n    chunks: 2\n    normalise: rows",
}
OPS = {
    "linear": ("linear(7)", (6,)),
    "linear of rows": ("linear(7)", (4, 6)),
    "conv1d": ("conv1d(7, 3, stride=2)", (3, 8)),
    "conv2d": ("conv2d(7, 3, padding=1)", (3, 5, 4)),
    "layer_norm": ("layer_norm()", (4, 6)),
    "group_norm": ("group_norm(2)", (6, 3)),
}
# `chunks` splits matrices, which norms have none of.
CASES = [(mode, op) for mode in MODES for op in OPS if "norm" not in op or "chunks" not in mode]


def text(makes: str, x: str, c: str, options: str, blocks: str = "") -> str:
    return f"""
r2d2c: 1
inputs:
  x: f32[{x}]
  c: f32[{c}]
targets:
  y: f32[B]
{blocks}
hypernets:
  view:
    makes: {makes}
    {options}
tasks:
  t:
    behavior: out = view(x, from=c)
    distance: mse(mean(reshape(out, (B, -1)), -1), y)
outputs:
  o: t.out
"""


def model_of(makes: str, x: tuple[Any, ...], c: tuple[Any, ...], options: str, blocks: str = "") -> Model:
    shown = (", ".join(map(str, dims)) for dims in (x, c))
    spec = r2d2c.loads(text(makes, *shown, options, blocks))
    return r2d2c.compile(spec, backend="eager").double()


def draw(*dims: Any) -> torch.Tensor:
    sizes = [{"B": B, "T": 4}.get(dim, dim) for dim in dims]
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(sizes)))


# -- the equations, for one context


def code(p: dict[str, torch.Tensor], c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    h = c / math.sqrt(c.shape[-1])
    if "view.code.weight" not in p:
        return h, None
    before = p["view.code.weight"] @ h + p["view.code.bias"]
    parts = p.get("view.parts")
    each = None if parts is None else torch.tanh(before + parts) / math.sqrt(K)
    return torch.tanh(before) / math.sqrt(K), each


def parameter(p: dict[str, torch.Tensor], name: str, c: torch.Tensor, normalise: str) -> torch.Tensor | None:
    """One generated parameter, whole, whatever it is made of."""
    h, parts = code(p, c)
    own = {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}
    if not own:
        return None
    base = own.get("base")
    if "left" in own:
        s = own["scale"] @ h + own["shift"]
        made = torch.einsum("or,r,ri->oi", own["left"].flatten(1), s, own["right"].flatten(1))
        made = made.reshape(-1, *own["right"].shape[1:])
    elif "scale" in own:
        assert base is not None
        factor = 1 + own["scale"] @ h
        return factor.reshape(-1, *[1] * (base.dim() - 1)) * base
    elif parts is not None and base is not None and base.dim() > 1:
        made = torch.cat([own["basis"] @ part for part in parts])[: base.numel()].reshape(base.shape)
    else:
        made = sum(h[j] * own["basis"][:, j] for j in range(len(h)))  # type: ignore[assignment]
    if made.dim() > 1 and normalise != "none":
        fan_in = made[0].numel()
        flat = made.flatten(1)
        if normalise == "rows":
            flat = flat / flat.norm(dim=1, keepdim=True) * math.sqrt(fan_in * (1 / (3 * fan_in)))
        else:
            flat = flat / flat.norm() * math.sqrt(flat.numel() * (1 / (3 * fan_in)))
        made = flat.reshape(made.shape)
    return made if base is None else made + base


def one_sample(
    makes: str, p: dict[str, torch.Tensor], x: torch.Tensor, c: torch.Tensor, normalise: str
) -> torch.Tensor:
    op = makes.partition("(")[0]
    weight, bias = (parameter(p, f"view.{op}.{name}", c, normalise) for name in ("weight", "bias"))
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "linear": lambda: F.linear(x, weight, bias),  # type: ignore[arg-type]
        "conv1d": lambda: F.conv1d(x[None], weight, bias, stride=2)[0],  # type: ignore[arg-type]
        "conv2d": lambda: F.conv2d(x[None], weight, bias, padding=1)[0],  # type: ignore[arg-type]
        "layer_norm": lambda: F.layer_norm(x, x.shape[-1:], weight, bias),
        "group_norm": lambda: F.group_norm(x[None], 2, weight, bias)[0],
    }
    return calls[op]()
