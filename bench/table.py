"""All benchmarks: one row each. A group runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from bench.measure import Result

ANY, CPU = ("cpu", "cuda"), ("cpu",)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A row of the table.

    function: ``module.function`` in this folder; the module is the group. against: what theirs is.
    target: the largest ratio that holds; None where the ratio is only reported.
    """

    name: str
    against: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    devices: tuple[str, ...] = ANY

    @property
    def group(self) -> str:
        return self.function.partition(".")[0]

    def load(self) -> Callable[..., Result]:
        module, _, name = self.function.partition(".")
        function: Callable[..., Result] = getattr(import_module(f"bench.{module}"), name)
        return function


MODULE = "nn.Module"
END = "the same stack end to end"
STEP = "forward, loss, backward, fused Adam"
HAND = "the same fx GraphModule by hand"
TORCH = "`python -c 'import torch'`"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("inference of an MLP, width 16", MODULE, "mlp.inference", {"width": 16, "size": 32}, 0.90),
    Benchmark("inference of an MLP, width 32", MODULE, "mlp.inference", {"width": 32, "size": 32}, 0.90),
    Benchmark("inference of an MLP, width 64", MODULE, "mlp.inference", {"width": 64, "size": 32}, 0.90),
    Benchmark("inference of an MLP, width 1024", MODULE, "mlp.inference", {"width": 1024, "size": 128}, 1.02),
    Benchmark("training step of an MLP, width 16", STEP, "mlp.training", {"width": 16, "size": 32}, 1.02),
    Benchmark("training step of an MLP, width 64", STEP, "mlp.training", {"width": 64, "size": 32}, 1.02),
    Benchmark(
        "training step of an MLP, width 1024", STEP, "mlp.training", {"width": 1024, "size": 128}, 1.02
    ),
    Benchmark(
        "step with local losses, 8 layers",
        END,
        "local.stack",
        {"layers": 8, "width": 1024, "size": 256},
        0.85,
    ),
    Benchmark(
        "step with local losses, 32 layers",
        END,
        "local.stack",
        {"layers": 32, "width": 1024, "size": 256},
        0.90,
    ),
    Benchmark(
        "step of four tasks with learned representatives",
        "the same equations by hand",
        "local.representatives",
        {"width": 64, "size": 64},
        1.05,
    ),
    Benchmark(
        "peak memory with local losses, 32 layers",
        "8 layers",
        "memory.depth",
        {"shallow": 8, "deep": 32},
        1.1,
    ),
    Benchmark("peak memory with local losses, end to end", END, "memory.end_to_end", {"layers": 32}, 0.5),
    Benchmark(
        "optimizer step of 1,000 small tasks",
        "one fused Adam over all parameters",
        "optimizer.against_many",
        {"tasks": 1000},
        1.2,
    ),
    Benchmark(
        "optimizer step of 1,000 small tasks, at best",
        "one fused Adam over one tensor of as many numbers",
        "optimizer.flat_step",
        {"tasks": 1000},
        None,
    ),
    Benchmark(
        "learning pass of 1,000 tiny tasks", "a loop by hand", "optimizer.visits", {"tasks": 1000}, 1.02
    ),
    Benchmark("`r2d2c --help`", TORCH, "startup.help_page", {}, 0.25, CPU),
    Benchmark("`r2d2c check` of a syntax error", TORCH, "startup.syntax_error", {}, 0.25, CPU),
    Benchmark(
        "ONNX export of 1,000 ops", "torch.onnx.export(dynamo=True)", "onnx.export", {"ops": 1000}, 0.02, CPU
    ),
    Benchmark(
        "ONNX Runtime, an MLP of width 64",
        "eager PyTorch",
        "onnx.runtime",
        {"width": 64, "size": 32},
        0.6,
        CPU,
    ),
    Benchmark("10,000 statements to a module", HAND, "scale.against_hand", {"statements": 10_000}, 2.5, CPU),
    Benchmark(
        "a chain of 5,000 operators in one expression",
        HAND,
        "scale.one_expression",
        {"operators": 5_000},
        devices=CPU,
    ),
    Benchmark(
        "20,000 statements, a doubling",
        "10,000 statements",
        "scale.doubling",
        {"statements": 20_000, "before": 10_000},
        2.3,
        CPU,
    ),
    Benchmark(
        "50,000 statements, a doubling",
        "20,000 statements",
        "scale.doubling",
        {"statements": 50_000, "before": 20_000},
        2.3,
        CPU,
    ),
    Benchmark(
        "100,000 statements, a doubling",
        "50,000 statements",
        "scale.doubling",
        {"statements": 100_000, "before": 50_000},
        2.3,
        CPU,
    ),
)
