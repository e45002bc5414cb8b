"""All benchmarks: one row each. A group runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
NETS = {"4x256": "MLP 4×256", "2x800": "MLP 2×800", "conv": "convolutions", "8x1024": "MLP 8×1024"}
SMALL, WIDE = ("4x256", "2x800", "conv"), "8x1024"


def _credit() -> Iterator[Benchmark]:
    """Every credit rule against the same by hand, and those that should be cheaper than backprop against it."""
    for rule in ("feedback", "direct", "synthetic", "target", "goodness", "hebbian"):
        for net in SMALL:
            name = f"step with `{rule}`, {NETS[net]}"
            yield Benchmark(name, "the same rule by hand", "credit.hand", {"net": net, "rule": rule}, 1.05)
    # Where a network is small, what is no product of matrices takes most of what no backward through the layers saves.
    for rule, shown, target, held in (
        ("feedback", "feedback", 1.05, (*SMALL, WIDE)),
        ("direct", "direct", 0.9, (*SMALL, WIDE)),
        ("goodness, by labels", "goodness(infer=labels)", 0.9, (*SMALL, WIDE)),
        ("direct, recomputed", "direct(recompute=true)", None, ()),
    ):
        for net in NETS if held else (WIDE,):
            name = f"`{shown}` beside backprop, {NETS[net]}"
            arguments, bound = {"net": net, "rule": rule}, target if net in held else None
            yield Benchmark(name, "a step of backprop, ours too", "credit.backprop", arguments, bound)
    for net in ("4x256", "2x800"):
        name = f"`goodness` by labels by hand, without autograd, {NETS[net]}"
        yield Benchmark(name, "a step of backprop, ours", "credit.written_out", {"net": net})


def _slots() -> Iterator[Benchmark]:
    """A step of a memory store, of which every slot has one layer, two as in `specs/memory`, or the gates of an LSTM.

    The targets are for two layers: the more a slot computes, the more there is to save, and the farther an LSTM is.
    """
    sizes = {"width": 64, "slots": 32, "tokens": 32, "size": 32, "length": 256}
    against = {"every": "a backward through all slots at every step", "lstm": "`nn.LSTM`, through all steps"}
    for cell in ("layer", "two layers", "gates"):
        for other, target in (("every", 0.2), ("lstm", 4.0)):
            arguments = {"against": other, "cell": cell, **sizes}
            name = f"step of a memory store, 32 slots, {cell}" + (
                " beside an LSTM" if other == "lstm" else ""
            )
            held = target if cell == "two layers" else None
            yield Benchmark(name, against[other], "slots.step", arguments, held)
    rows: tuple[tuple[str, str, str, dict[str, Any], float | None], ...] = (
        (
            "ONNX Scan, a memory of 32 slots",
            "the eager loop, as it is defined",
            "scan",
            {"kind": "memory", "slots": 32},
            0.55,
        ),
        ("ONNX Scan, an LSTM", "the eager loop, as it is defined", "scan", {"kind": "lstm"}, 0.55),
        (
            "ONNX Scan, a memory of 32 slots, beside Loop",
            "the same as an ONNX Loop",
            "against_loop",
            {"kind": "memory", "slots": 32},
            None,
        ),
    )
    for name, other, function, arguments, held in rows:
        arguments = {**arguments, "width": 64, "size": 32, "length": 100}
        yield Benchmark(name, other, f"onnx_loops.{function}", arguments, held, CPU)
    one = {"width": 64, "size": 32, "slots": 32}
    yield Benchmark(
        "one memory step in ONNX Runtime", "the eager model", "onnx_loops.one_step", one, None, CPU
    )


def _op_graphs() -> Iterator[Benchmark]:
    """Op graphs: against an op at a time, against the same ops at depth 1, and against limits."""
    naive = "an op at a time, into a growing concatenation"
    for nodes, batch, times in ((100, 256, 8), (1_000, 256, 50), (5_000, 64, 500)):
        name = f"op graph of {nodes:,} ops, batch {batch}"
        yield Benchmark(name, naive, "opgraph.naive", {"nodes": nodes, "batch": batch}, 1 / times, CPU)
    for normalise in ("none", "batch"):
        shown = "" if normalise == "none" else ", normalised"
        arguments = {"nodes": 5_000, "normalise": normalise}
        name = f"op graph of 5,000 ops{shown}"
        yield Benchmark(name, "the same ops at depth 1", "opgraph.depth", arguments, 1.5, CPU)
        limit = {**arguments, "limit": 4e7}
        yield Benchmark(f"peak memory of an {name}", "40 MB", "opgraph.memory", limit, 1.0, CPU)
    planned = {"nodes": 5_000, "seconds": 0.01}
    yield Benchmark("planning an op graph of 5,000 ops", "10 ms", "opgraph.planning", planned, 1.0, CPU)
    changed = {"nodes": 5_000, "seconds": 0.01}
    yield Benchmark("a mutation of an op graph of 5,000 ops", "10 ms", "evolve.mutation", changed, 1.0, CPU)
    yield Benchmark(
        "a mutation of an op graph of 1,000 ops",
        "a training step of the same",
        "evolve.recompilation",
        {"nodes": 1_000},
        1.0,
        CPU,
    )
    searched = {"workers": 2, "samples": 60_000, "epochs": 2}
    name = "`evolve` in 2 processes, by the clock"
    yield Benchmark(name, "in one", "evolve.processes", searched, 0.555, CPU)
    large = {"nodes": 100_000, "seconds": 10.0}
    yield Benchmark("planning and running 100,000 ops", "10 s", "opgraph.large", large, 1.0, CPU)
    name = "compiling a spec of 100,000 ops, to its first learning pass"
    yield Benchmark(name, "10 s", "opgraph.compiled", large, 1.0, CPU)


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
    Benchmark(
        "peak memory with `direct(recompute=true)`, 32 layers",
        "8 layers",
        "memory.depth",
        {"shallow": 8, "deep": 32, "kind": "direct, recomputed"},
        1.1,
    ),
    Benchmark(
        "peak memory with `goodness`, 32 layers",
        "8 layers",
        "memory.depth",
        {"shallow": 8, "deep": 32, "kind": "goodness"},
        1.1,
    ),
    Benchmark("peak memory with local losses, end to end", END, "memory.end_to_end", {"layers": 32}, 0.5),
    *_credit(),
    Benchmark(
        "full hypernet, width 512, k = 32",
        "33 shared layers",
        "hyper.shared",
        {"width": 512, "size": 512, "options": "hidden: 32", "layers": 33},
        1.3,
    ),
    Benchmark(
        "full hypernet, width 512, k = 32, a step",
        "the same by bmm",
        "hyper.batched",
        {"width": 512, "size": 512, "hidden": 32},
        0.2,
    ),
    Benchmark(
        "full hypernet, width 512, k = 32, stored for the backward",
        "the same by bmm",
        "hyper.saved",
        {"width": 512, "size": 512, "hidden": 32},
        0.25,
    ),
    Benchmark(
        "factored hypernet, width 512, rank 8",
        "a shared layer",
        "hyper.shared",
        {"width": 512, "size": 512, "options": "rank: 8, hidden: 32", "layers": 1},
        1.3,
    ),
    Benchmark(
        "factored hypernet and shared weights, width 512, rank 8",
        "a shared layer",
        "hyper.shared",
        {"width": 512, "size": 512, "options": "rank: 8, base: true, hidden: 32", "layers": 1},
        None,
    ),
    Benchmark(
        "hypernet that multiplies outputs, width 512",
        "a shared layer",
        "hyper.shared",
        {"width": 512, "size": 512, "options": "mode: scale, hidden: 32", "layers": 1},
        None,
    ),
    Benchmark(
        "step of a loop, depth 4, width 64",
        "a Python loop by hand",
        "loops.against_hand",
        {"width": 64, "size": 64, "depth": 4},
        1.05,
    ),
    Benchmark(
        "step of a loop, depth 8, width 512",
        "a Python loop by hand",
        "loops.against_hand",
        {"width": 512, "size": 128, "depth": 8},
        1.02,
    ),
    Benchmark(
        "learning pass of a loop, depth 32",
        "8 of depth 4",
        "loops.linear_in_depth",
        {"width": 256, "size": 128, "shallow": 4, "deep": 32},
        1.1,
    ),
    Benchmark(
        "peak memory of a loop that recomputes, 8 steps",
        "the same loop, steps stored",
        "memory.recomputed",
        {"steps": 8},
        0.25,
    ),
    *_slots(),
    *_op_graphs(),
    Benchmark(
        "peak memory of a memory store, 10,000 steps",
        "1,000 steps, in chunks of 64 as well",
        "memory.chunked",
        {"short": 1_000, "long": 10_000},
        1.1,
    ),
    Benchmark(
        "the complete R2D2 model, batch of 256, a sample",
        "one sample at a time",
        "loops.batched",
        {"size": 256},
        0.05,
    ),
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
    Benchmark(
        "`compare` of 6 rules",
        "the 6 trainings one after the other",
        "compare.six_rules",
        {"width": 256, "batches": 150, "epochs": 4},
        1.1,
        CPU,
    ),
    Benchmark(
        "an epoch of Fashion-MNIST, MLP 2×256",
        "a loop by hand, all images one tensor",
        "training_rows.epoch",
        {},
        1.1,
        CPU,
    ),
    Benchmark(
        "an epoch of Fashion-MNIST, MLP 2×256, not from a DataLoader",
        "a usual loop over a DataLoader",
        "training_rows.epoch",
        {"loader": True},
        0.5,
        CPU,
    ),
    Benchmark(
        "writing a checkpoint, MLP 2×256, Fashion-MNIST",
        "an epoch",
        "training_rows.checkpoint",
        {},
        0.02,
        CPU,
    ),
    Benchmark("resuming a run, until its first batch", "a fresh start", "training_rows.resume", {}, 1.2, CPU),
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
    Benchmark(
        "8 tasks in a chain, in two processes, an epoch by the clock",
        "one process on one core",
        "processes.tasks",
        target=0.67,
        devices=CPU,
    ),
)
