"""The table of all built-in ops, and of those that a session adds (plug-ins, Python)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from r2d2c.opkinds import OP_KINDS, OpKind, register
from r2d2c.ops import (
    activations,
    arithmetic,
    attention,
    batch_norm,
    class_distances,
    comparison,
    constants,
    convolution,
    distances,
    embedding,
    feedback,
    fused,
    indexing,
    joining,
    learned,
    linear,
    masking,
    narrowing,
    norms,
    op_graph,
    ordering,
    patterns,
    pooling,
    random,
    reductions,
    shaping,
    slot_choice,
    slot_reads,
    slots,
    spiking,
    surprise,
    timing,
    unary,
    wiring,
)
from r2d2c.ops.record import Op

FAMILIES = {
    "arithmetic": arithmetic.OPS + fused.OPS,
    "unary": unary.OPS,
    "comparison": comparison.OPS,
    "activations": activations.OPS,
    "reductions": reductions.OPS,
    "ordering": ordering.OPS,
    "masking": masking.OPS,
    "distances": distances.OPS + class_distances.OPS,
    "linear": linear.OPS,
    "wiring": wiring.OPS,
    "embedding": embedding.OPS + learned.OPS,
    "convolution": convolution.OPS,
    "feedback": feedback.OPS,
    "pooling": pooling.OPS,
    "norms": norms.OPS + batch_norm.OPS,
    "attention": attention.OPS,
    "random": random.OPS,
    "shaping": shaping.OPS,
    "joining": joining.OPS,
    "indexing": indexing.OPS,
    "slots": slots.OPS + slot_choice.OPS + slot_reads.OPS,
    "timing": timing.OPS,
    "surprise": surprise.OPS,
    "spiking": spiking.OPS,
    "patterns": patterns.OPS,
    "constants": constants.OPS + narrowing.OPS,
}


# What the compiler makes of sections of a spec, which cannot call them by name.
INTERNAL = {op.name: op for op in op_graph.OPS}


@cache
def builtin() -> dict[str, Op]:
    """Every built-in op by name."""
    return {op.name: op for ops in FAMILIES.values() for op in ops}


class Ops(Mapping[str, Op]):
    """The ops a spec may use: the built-in ones, the internal ones, then those added.

    extra: what is added, ops and kinds of op graphs. kinds: all kinds of op graphs, by name.
    """

    def __init__(self, extra: Iterable[Op | OpKind] = ()) -> None:
        self.extra = tuple(extra)
        added = [one for one in self.extra if isinstance(one, OpKind)]
        register(added)
        self.kinds = {kind.name: kind for kind in (*OP_KINDS, *added)}
        ops = [one for one in self.extra if not isinstance(one, OpKind)]
        self._ops = builtin() | INTERNAL | {op.name: op for op in ops}

    def __getitem__(self, name: str) -> Op:
        return self._ops[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ops)

    def __len__(self) -> int:
        return len(self._ops)
