"""Running a loop: its step is compiled once and called as often as the run asks for.

Nothing is unrolled, so one graph serves every depth and every length. Autograd records the steps as they run; with
``recompute`` it keeps the carries alone and runs a step again when its backward comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.fx as fx

from r2d2c.loops import Given, Loop
from r2d2c.lower.codegen import compile_function
from r2d2c.lower.eprop import run_eprop
from r2d2c.lower.halting import run_until
from r2d2c.lower.recompute import recompute

if TYPE_CHECKING:
    from r2d2c.lower.eprop import Traced
    from r2d2c.lower.init import Rng
    from r2d2c.lower.phase_run import Phases

Step = Callable[..., Any]
Tensors = tuple[Any, ...]


class Tied(torch.autograd.Function):
    """A value, and inputs that it does not depend on in every run: their gradient is then 0, and not missing.

    What the backward is made of says once and for all which gradients there are.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.shapes = [x.shape for x in inputs]
        ctx.kinds = [{"dtype": x.dtype, "device": x.device} for x in inputs]
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *delta: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needed = ctx.needs_input_grad
        zeros = [
            torch.zeros(shape, **kind) if need else None
            for shape, kind, need in zip(ctx.shapes, ctx.kinds, needed[1:], strict=True)
        ]
        return (delta[0] if needed[0] else None, *zeros)


class LoopCall:
    """A loop as a function: ``(trips, *carries, *sequences, *rest[, rng], *sizes)`` to what the loop gives.

    fx: the graph of one step. axes: of each sequence, the axis of steps. stacks: the same of each output.
    random: whether the step draws, and place: what tells its numbers from those of other calls of the loop.
    sizes: how many sizes of dims it takes besides.
    sometimes: of each output, the inputs that some numbers of steps leave without a gradient.
    samples: where samples halt, the axis of samples of every argument behind the first. default: what f32 stands for.
    phases: another way to the same, if there is one (see `phases`). eprop: how its gradient comes, if by e-prop.
    """

    def __init__(
        self,
        loop: Loop,
        graph: fx.Graph,
        axes: Sequence[int],
        stacks: Sequence[int],
        random: bool,
        sizes: int,
        place: str = "",
        sometimes: Sequence[tuple[int, ...]] = (),
        samples: Sequence[int | None] = (),
        default: torch.dtype = torch.float32,
        in_phases: Phases | None = None,
    ) -> None:
        self.loop, self.fx, self.axes, self.stacks = loop, graph, tuple(axes), tuple(stacks)
        self.random, self.sizes, self.place = random, sizes, place
        self.sometimes, self.samples, self.default = tuple(sometimes), tuple(samples), default
        self.phases = in_phases
        self.eprop: Traced | None = None
        # What fx and its code generator ask of a function.
        self.__name__ = self.__qualname__ = f"{loop.name}_loop"
        self.__module__ = __name__
        self._step: Step | None = None

    @property
    def step(self) -> Step:
        """The compiled step."""
        if self._step is None:
            self._step = compile_function(self.fx, torch.nn.Module(), f"{self.loop.name} step")
        return self._step

    def __call__(self, trips: int, *inputs: Any) -> Tensors:
        taught = torch.is_grad_enabled() and any(
            isinstance(x, torch.Tensor) and x.requires_grad for x in inputs
        )
        if self.eprop is not None and taught and trips > 0:
            results = run_eprop(self, self.eprop, trips, inputs)
        else:
            results = self.plain(trips, inputs)
        if not torch.is_grad_enabled() or not any(self.sometimes):
            return results
        tied = [[inputs[k] for k in some if isinstance(inputs[k], torch.Tensor)] for some in self.sometimes]
        return tuple(
            Tied.apply(result, *some) if some else result  # type: ignore[no-untyped-call]
            for result, some in zip(results, tied, strict=True)
        )

    def plain(self, trips: int, inputs: Tensors) -> Tensors:
        """What the loop gives, as autograd records it."""
        if self.phases is not None and trips > 1 and self.phases.ready:
            return self.phases.run(self, trips, inputs)
        loop = self.loop
        rng: Rng | None = inputs[len(inputs) - self.sizes - 1] if self.random else None
        count, sequences = len(loop.carries), loop.sequences
        carries = inputs[:count]
        elements = [
            x.unbind(axis) for x, axis in zip(inputs[count : count + sequences], self.axes, strict=True)
        ]
        rest = inputs[count + sequences :]
        if trips < 1 and not carries:
            return self._none(inputs)
        for given in elements:
            if len(given) != trips:
                raise ValueError(
                    f"the loop `{loop.name}` takes {trips} steps, and a sequence has {len(given)}"
                )
        if loop.halt is not None:
            return run_until(
                lambda number, now, each, same: self.run_step(number, trips, now, each, same, rng),
                trips,
                carries,
                elements,
                rest,
                loop.gives,
                loop.halt.port,
                loop.halt.epsilon,
                self.samples,
                self.stacks,
                self.default,
            )
        return self._run(trips, carries, elements, rest, rng)

    def _run(
        self, trips: int, carries: Tensors, elements: list[Tensors], rest: Tensors, rng: Rng | None
    ) -> Tensors:
        gives, count = self.loop.gives, len(self.loop.carries)
        kept: list[list[Any]] = [[] for _ in gives]
        every = [(number, g.port) for number, g in enumerate(gives) if g.kind == "steps"]
        outputs: Tensors = ()
        for number in range(trips):
            outputs = self.run_step(number, trips, carries, [e[number] for e in elements], rest, rng)
            carries = outputs[:count]
            for position, port in every:
                kept[position].append(outputs[port])
        return tuple(
            self.stack(g, kept[number], number) if g.kind == "steps" else outputs[g.port]
            for number, g in enumerate(gives)
        )

    def _none(self, inputs: Tensors) -> Tensors:
        """No step at all: of every loss over steps that the run does not get to, a value without elements."""
        learning = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        empty = (
            torch.cat([x.reshape(-1)[:0] for x in learning])
            if learning
            else torch.zeros(0, dtype=self.default)
        )
        return (empty,) * len(self.loop.gives)

    def run_step(
        self,
        number: int,
        trips: int,
        carries: Tensors,
        elements: Sequence[Any],
        rest: Tensors,
        rng: Rng | None,
    ) -> Tensors:
        """One step: the next values of the carries, then its other outputs."""
        loop = self.loop
        carries = tuple(
            value.detach() if loop.cut(k, number, trips) else value for k, value in enumerate(carries)
        )
        arguments = self.arguments(number, carries, elements, rest, rng)
        step = self.step
        if loop.recompute and torch.is_grad_enabled():
            outputs: Tensors = recompute(step, *arguments)
            return outputs
        outputs = step(*arguments)
        return outputs

    def arguments(
        self, number: int, carries: Tensors, elements: Sequence[Any], rest: Tensors, rng: Rng | None
    ) -> list[Any]:
        """What the step takes."""
        arguments = [*carries, *elements, *rest]
        if rng is not None:
            arguments[len(arguments) - self.sizes - 1] = rng.at(f"{self.place}.{number}")
        return arguments

    def stack(self, given: Given, values: list[Any], position: int) -> Any:
        """A value at every step, along its axis of steps."""
        values = [v if isinstance(v, torch.Tensor) else torch.tensor(v) for v in values]
        return torch.stack(values, self.stacks[position])
