"""Small networks as a spec and as functions, and credit assignment written by hand over the functions.

A `Net` is a graph of tasks; `Params` calls its layers. `learned` goes through the tasks from the top down, in plain
autograd and one call a task: what reaches a task's value is the sum of what its losses and its links send. The rules
with an energy are in credit_energies.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import r2d2c
from r2d2c.model import Model
from r2d2c.sampling import random_batch

Grads = dict[str, Tensor]


@dataclass
class Params:
    """The layers of a model, by the names of their parameters."""

    tensors: dict[str, Tensor]
    back: dict[str, Tensor] = field(default_factory=dict)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return self._layer(name, x, F.linear)

    def conv(self, name: str, x: Tensor, **geometry: Any) -> Tensor:
        return self._layer(name, x, lambda x, w, b: F.conv2d(x, w, b, **geometry))

    def _layer(self, name: str, x: Tensor, product: Callable[..., Tensor]) -> Tensor:
        """Where there is a matrix for the way back, the same numbers, and the gradient of x goes through that."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        if name not in self.back:
            return product(x, weight, bias)
        detour = product(x, self.back[name], None)
        return product(x.detach(), weight, bias) + detour - detour.detach()


Task = tuple[tuple[str, ...], Callable[..., Tensor]]
LossOf = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Net:
    """text: the spec, with CREDIT. tasks: what each reads and what it makes of it. losses: weight, task and value."""

    text: str
    tasks: dict[str, Task]
    losses: dict[str, tuple[float, str, LossOf]]

    @property
    def links(self) -> list[tuple[str, str]]:
        return [(u, v) for v, (reads, _) in self.tasks.items() for u in reads if u != "x"]

    def model(self, credit: str, links: str = "", seed: int | None = None) -> Model:
        text = self.text.replace("CREDIT", credit).replace("LINKS", links)
        if seed is not None:
            text = f"{text}train:\n  seed: {seed}\n"
        model = r2d2c.compile(r2d2c.loads(text)).double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():  # nothing starts at zero
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return model

    def values(self, p: Params, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {"x": batch["x"]}
        for name, (reads, f) in self.tasks.items():
            found[name] = f(p, *(found[u] for u in reads))
        return found


HEAD = "r2d2c: 1\ndims: {D: 5, H: 4, C: 3}\ninputs:\n  x: f32[B, D]\ntargets:\n  y: i64[B]\ncredit: CREDIT\n"
CHAIN = Net(
    HEAD
    + """
tasks:
  a:
    behavior: h = x |> linear(H) |> tanh
  b:
    behavior: h = a.h |> linear(H + 1) |> tanh
  c:
    behavior: h = b.h |> linear(H) |> tanh |> linear(H + 1, name=two) |> tanh
  d:
    behavior: logits = linear(c.h, C)
    distance: cross_entropy(logits, y)
    weight: 1.5
LINKS
outputs:
  logits: d.logits
""",
    {
        "a": (("x",), lambda p, x: torch.tanh(p.linear("a.h.linear", x))),
        "b": (("a",), lambda p, a: torch.tanh(p.linear("b.h.linear", a))),
        "c": (("b",), lambda p, b: torch.tanh(p.linear("c.two", torch.tanh(p.linear("c.h.linear", b))))),
        "d": (("c",), lambda p, c: p.linear("d.logits.linear", c)),
    },
    {"d": (1.5, "d", lambda v, t: F.cross_entropy(v["d"], t["y"]))},
)
# One task feeds two, two outputs have losses, and an inner task keeps a loss of its own.
DAG = Net(
    HEAD.replace("i64[B]", "i64[B]\n  z: f32[B, 2]")
    + """
tasks:
  a:
    behavior: h = x |> linear(H) |> tanh
  b:
    behavior: h = a.h |> linear(H + 1) |> tanh
    distance: mean(h ^ 2)
    weight: 0.3
    keep: own
  c:
    behavior: h = concat(a.h, b.h) |> linear(H) |> tanh
  d:
    behavior: logits = linear(c.h, C)
    distance: cross_entropy(logits, y)
    weight: 2
  e:
    behavior: out = linear(b.h, 2)
    distance: mse(out, z)
    weight: 0.5
LINKS
outputs:
  logits: d.logits
  out: e.out
""",
    {
        "a": (("x",), lambda p, x: torch.tanh(p.linear("a.h.linear", x))),
        "b": (("a",), lambda p, a: torch.tanh(p.linear("b.h.linear", a))),
        "c": (("a", "b"), lambda p, a, b: torch.tanh(p.linear("c.h.linear", torch.cat([a, b], -1)))),
        "d": (("c",), lambda p, c: p.linear("d.logits.linear", c)),
        "e": (("b",), lambda p, b: p.linear("e.out.linear", b)),
    },
    {
        "b": (0.3, "b", lambda v, t: (v["b"] ** 2).mean()),
        "d": (2.0, "d", lambda v, t: F.cross_entropy(v["d"], t["y"])),
        "e": (0.5, "e", lambda v, t: F.mse_loss(v["e"], t["z"])),
    },
)
CONV = Net(
    """
r2d2c: 1
dims: {C: 3}
inputs:
  x: f32[B, 2, 6, 6]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> conv2d(3, 3, padding=1) |> tanh
  b:
    behavior: h = a.h |> conv2d(4, 3, stride=2) |> tanh
  c:
    behavior: h = b.h |> flatten |> linear(5) |> tanh
  d:
    behavior: logits = linear(c.h, C)
    distance: cross_entropy(logits, y)
LINKS
outputs:
  logits: d.logits
""",
    {
        "a": (("x",), lambda p, x: torch.tanh(p.conv("a.h.conv2d", x, padding=1))),
        "b": (("a",), lambda p, a: torch.tanh(p.conv("b.h.conv2d", a, stride=2))),
        "c": (("b",), lambda p, b: torch.tanh(p.linear("c.h.linear", b.flatten(1)))),
        "d": (("c",), lambda p, c: p.linear("d.logits.linear", c)),
    },
    {"d": (1.0, "d", lambda v, t: F.cross_entropy(v["d"], t["y"]))},
)
SEQUENCE = Net(
    """
r2d2c: 1
inputs:
  x: f32[B, T, 5]
targets:
  y: f32[B, T, 3]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> linear(4) |> tanh
  b:
    behavior: h = a.h |> linear(6) |> tanh
  c:
    behavior: h = b.h |> linear(4) |> tanh
  d:
    behavior: out = linear(c.h, 3)
    distance: mse(out, y)
LINKS
outputs:
  out: d.out
""",
    {
        "a": (("x",), lambda p, x: torch.tanh(p.linear("a.h.linear", x))),
        "b": (("a",), lambda p, a: torch.tanh(p.linear("b.h.linear", a))),
        "c": (("b",), lambda p, b: torch.tanh(p.linear("c.h.linear", b))),
        "d": (("c",), lambda p, c: p.linear("d.out.linear", c)),
    },
    {"d": (1.0, "d", lambda v, t: F.mse_loss(v["d"], t["y"]))},
)
NETS = {"chain": CHAIN, "dag": DAG, "conv": CONV, "sequence": SEQUENCE}


def batch_of(model: Model, seed: int = 3) -> dict[str, Tensor]:
    return random_batch(model.graph, seed=seed, dtype=torch.float64)


def params_of(model: Model) -> Params:
    """Copies, so that nothing here can change the model."""
    tensors = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    return Params({**tensors, **{n: b.detach().clone() for n, b in model.named_buffers()}})


def gradients(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    model.learn(**batch)
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same(
    found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor], tolerance: float = 1e-10
) -> None:
    """The same parameters have gradients, and the same."""
    assert {n for n, g in found.items() if g is not None} == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name],
            gradient.detach(),
            rtol=tolerance,
            atol=tolerance * 1e-2,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def pull(out: Tensor, wrt: Mapping[str, Tensor], cotangent: Tensor | None = None) -> Grads:
    """cotangentᵀ·∂out/∂wrt, of what out depends on."""
    found = torch.autograd.grad(out, list(wrt.values()), cotangent, retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(wrt, found, strict=True) if g is not None}


# What a link sends to its lower task: ∂/∂h of a mean over the batch.
class Sender:
    """A rule on some links. ``sends(run, u, v)`` is called when everything above u is known."""

    through: dict[str, Tensor]

    def __init__(self, **options: Any) -> None:
        self.options, self.through = options, {}

    def sends(self, run: Run, u: str, v: str) -> Tensor | None:
        """By default what comes back through v."""
        return run.back[u, v]


@dataclass
class Run:
    """One learning pass over a net. back: what v sends back through its behavior; got: what reaches each value."""

    net: Net
    p: Params
    batch: Mapping[str, Tensor]
    rules: Mapping[tuple[str, str], Sender]
    h: dict[str, Tensor] = field(default_factory=dict)
    back: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    got: dict[str, Tensor] = field(default_factory=dict)
    direct: dict[str, Tensor] = field(default_factory=dict)
    grads: Grads = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.batch["x"])

    def above(self, u: str, kind: type[Sender]) -> list[str]:
        return [v for w, v in self.net.links if w == u and isinstance(self.rules[w, v], kind)]

    def add(self, found: Mapping[str, Tensor]) -> None:
        for name, g in found.items():
            if self.p.tensors.get(name) is not None and self.p.tensors[name].requires_grad:
                self.grads[name] = self.grads[name] + g if name in self.grads else g

    def trained(self) -> Grads:
        return {n: t for n, t in self.p.tensors.items() if t.requires_grad}

    def task(self, name: str, through: Mapping[str, Tensor], **instead: Tensor) -> tuple[Tensor, Grads]:
        """A task's value from constants, and the constants by the task they come from."""
        reads, f = self.net.tasks[name]
        leaves = {u: instead.get(u, self.h[u]).detach().requires_grad_() for u in reads}
        return f(Params(self.p.tensors, dict(through)), *leaves.values()), leaves


def learned(net: Net, p: Params, batch: Mapping[str, Tensor], rules: Sender | Mapping[Any, Sender]) -> Grads:
    """The gradients of all parameters, those of predictors and inverses included."""
    every = rules if isinstance(rules, Mapping) else dict.fromkeys(net.links, rules)
    run = Run(net, p, batch, every)
    run.h = {name: value.detach() for name, value in net.values(p, batch).items()}
    leaves = {name: value.clone().requires_grad_() for name, value in run.h.items() if name != "x"}
    direct: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for weight, _, value in net.losses.values():
        for name, g in pull(weight * value(leaves, batch), leaves).items():
            direct[name] = direct[name] + g
    run.direct = dict(direct)
    for name in reversed(net.tasks):
        senders = [(run.rules[u, v], v) for u, v in net.links if u == name]
        parts = [part for rule, v in senders if (part := rule.sends(run, name, v)) is not None]
        parts += [direct[name]] if name in direct else []
        through = {k: b for link in run.rules for k, b in run.rules[link].through.items() if name in link}
        made, inputs = run.task(name, through)
        if parts:
            run.got[name] = sum(parts[1:], parts[0])
            run.add(pull(made, run.trained(), run.got[name]))
            sent = pull(made, inputs, run.got[name])
        else:
            sent = {u: torch.zeros_like(t) for u, t in inputs.items()}
        run.back.update({(u, name): g for u, g in sent.items()})
    return run.grads
