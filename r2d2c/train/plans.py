"""What a spec's `train:` section says of single parameters: `optimizers`, `clip` and `no_decay`. Nothing here imports
torch.

A key is the beginning of parameters' names, as in `rates`, or a word for a kind of them: see `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Storage, walk
from r2d2c.passes.training import training_graph
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.spec import parse_scalar
from r2d2c.syntax.yaml_nodes import YMap, YScalar
from r2d2c.train.calls import Call, constant, read_calls
from r2d2c.train.clipping import Clip
from r2d2c.train.optimizers import OptimizerRecord, check_optimizer
from r2d2c.train.rates import matcher, report_key
from r2d2c.verify.op_graphs import find_readers

T = TypeVar("T")
NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm")
"""The ops whose parameters are those of a normalisation."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An optimizer, and the key of `optimizers` it stands under; empty for that of all other parameters."""

    key: str
    call: Call
    record: OptimizerRecord

    @property
    def rate(self) -> float:
        """The learning rate at the beginning."""
        return float({**self.record.arguments, **self.call.arguments}["lr"])

    @property
    def decay(self) -> float:
        """The weight decay; 0 of an optimizer that has none."""
        return float({**self.record.arguments, **self.call.arguments}.get("weight_decay", 0))


@dataclass(frozen=True)
class Trained:
    """The parameters of a spec that learn, in the order of their visits, and all others. graph: the training graph."""

    rows: Mapping[str, Storage]
    others: tuple[str, ...]
    norms: frozenset[str]
    graph: Graph

    def select(self, key: str) -> list[str]:
        """The parameters that a key is about."""
        return list(filter(self.test(key), self.rows))

    def test(self, key: str) -> Callable[[str], object]:
        kind = KINDS.get(key)
        return matcher(key) if kind is None else lambda name: kind(self, name)

    def spread(self, given: Mapping[str, T]) -> dict[str, T]:
        """What parameters are given: of several keys the one with most characters beside its `*` counts, of equal
        ones the later. A word for a kind counts less than any name.
        """
        order = sorted(
            (key not in KINDS, key not in KINDS and len(key.replace("*", "")), at, key)
            for at, key in enumerate(given)
        )
        found: dict[str, T] = {}
        for *_, key in order:
            found |= dict.fromkeys(self.select(key), given[key])
        return {name: found[name] for name in self.rows if name in found}

    def axes(self, name: str) -> int:
        """How many axes a parameter has, without that of the steps of a loop where every step has its own."""
        row = self.rows[name]
        return len(row.type.dims) - (row.stack is not None) if row.type is not None else 0

    def is_matrix(self, name: str) -> bool:
        return self.axes(name) == 2 and self.rows[name].stack is None


KINDS: Mapping[str, Callable[[Trained, str], object]] = {
    "matrices": Trained.is_matrix,
    "vectors": lambda trained, name: trained.axes(name) < 2,
    "bias": lambda trained, name: name.rpartition(".")[2] == "bias",
    "norm": lambda trained, name: name in trained.norms,
}
"""Words for kinds of parameters: by their axes, by their own name, and those of an op that normalises."""


@dataclass(frozen=True)
class Reader:
    """Reads what a spec says of single parameters. Every mistake is reported."""

    checked: Checked
    sink: Sink

    @cached_property
    def trained(self) -> Trained:
        checked = self.checked
        graph = training_graph(checked.graph, checked.ops, rules(checked.rules))
        names = dict.fromkeys(name for visit in graph.visits for name in visit.finished)
        rows = {**checked.graph.storage, **graph.storage}
        others = tuple(name for name, row in rows.items() if row.kind == "param" and name not in names)
        stored = {n.id: str(n.attrs["storage"]) for _, n in walk(checked.graph) if n.op == "param"}
        norms = {
            stored[value.node]
            for _, node in walk(checked.graph)
            for value in node.inputs
            if node.op in NORMS and value is not None and value.node in stored
        }
        return Trained({name: rows[name] for name in names}, others, frozenset(norms), graph)

    def node(self, key: str) -> Any:
        train = self.checked.spec.document.train
        return train.node.get(key) if train is not None and isinstance(train.node, YMap) else None

    def parsed(self, scalar: YScalar | None) -> Syntax | None:
        return parse_scalar(scalar, parse_expression, self.sink)  # type: ignore[no-any-return]

    # -- optimizers
    def optimizers(self, usual: Choice | None) -> dict[str, Choice]:
        """The optimizers of parameters that have another one than the ``usual``."""
        found: dict[str, Choice] = {}
        for key, value in self._entries("optimizers"):
            choice = self.choice(self.parsed(value), key.value)
            if self._names_some(key) and choice is not None:
                found[key.value] = choice
        chosen = self.trained.spread(found) if found else {}
        if any(choice.record.matrices_only for choice in (*found.values(), *([usual] if usual else []))):
            self._check_matrices(self._all(usual, chosen))
        if any(not choice.record.shaped for choice in (*found.values(), *([usual] if usual else []))):
            self._check_growth(self._all(usual, chosen))
        return chosen

    def _all(self, usual: Choice | None, chosen: Mapping[str, Choice]) -> dict[str, Choice]:
        return {**({} if usual is None else dict.fromkeys(self.trained.rows, usual)), **chosen}

    def choice(self, syntax: Syntax | None, key: str = "") -> Choice | None:
        """The optimizer that an expression names; None after a diagnostic."""
        if syntax is None:
            return None
        calls = read_calls(syntax, "optimizer", self.checked.graph.dims, self.sink)
        if calls is None:
            return None
        if len(calls) > 1:
            whose = f"the parameters under `{key}`" if key else "the model"
            message = f"one optimizer trains {whose}, this is a pipe of several"
            self.sink.report("E540", syntax.span(syntax.root), message)
            return None
        call = calls[0]
        record = check_optimizer(call.name, call.arguments, self.sink, call.span, call.spans)
        return None if record is None else Choice(key, call, record)

    def _check_matrices(self, chosen: Mapping[str, Choice]) -> None:
        told = set()
        for name, choice in chosen.items():
            if choice.record.matrices_only and not self.trained.is_matrix(name) and choice.key not in told:
                told.add(choice.key)
                self.sink.report(
                    "E534",
                    choice.call.span,
                    f"optimizer `{choice.record.name}` trains only matrices, and `{name}` is none",
                    fix="give the matrices alone that one: `optimizers: {matrices: muon}`",
                )

    def _check_growth(self, chosen: Mapping[str, Choice]) -> None:
        """Whether the state of all that grows can follow."""
        readers = find_readers(self.trained.graph)
        for _, node in walk(self.checked.graph):
            if node.op != "op_graph" or node.attrs["growing"] is None:
                continue
            name = node.attrs["start"].name
            read = [reader.weight for reader in readers[name].readers] if name in readers else []
            for parameter in (f"{node.id}.numbers", *read):
                choice = chosen.get(parameter)
                if choice is not None and not choice.record.shaped:
                    self.sink.report(
                        "E661",
                        choice.call.span,
                        f"optimizer `{choice.record.name}` has no state for each entry of `{parameter}`, "
                        f"which follows the growth of `{name}`",
                        also=[(node.origin, "here")] if node.origin is not None else [],
                        fix=f"give it another one: `optimizers: {{{parameter}: adam}}`",
                    )
                    return

    # -- clip
    def clips(self) -> dict[str, Clip]:
        """The bounds of gradients, by parameter."""
        train = self.checked.spec.document.train
        given = train.clip if train is not None else {}
        if "" in given:
            clip = self._clip("", given[""])
            return {} if clip is None else dict.fromkeys(self.trained.rows, clip)
        found: dict[str, Clip] = {}
        for key, value in self._entries("clip"):
            clip = self._clip(key.value, value)
            if self._names_some(key) and clip is not None:
                found[key.value] = clip
        return self.trained.spread(found) if found else {}

    def _clip(self, key: str, value: YScalar) -> Clip | None:
        syntax = self.parsed(value)
        if syntax is None:
            return None
        at = syntax.root
        node = syntax.nodes[at]
        kind = "norm"
        if node.kind == "call" and len(node.args) == 2 and not node.keywords:
            head = syntax.nodes[node.args[0]]
            kind, at = str(head.value) if head.kind == "name" else "", node.args[1]
        bound = constant(syntax, at, self.checked.graph.dims)
        span = syntax.span(syntax.root)
        if _is_positive(bound) and (kind == "norm" or kind == "value"):
            return Clip(key, "norm" if kind == "norm" else "value", float(bound))
        whose = f"of `{key}`" if key else "of `clip`"
        message = (
            f"the bound {whose} must be a number above 0, `norm(…)` or `value(…)` of one, not `{span.text}`"
        )
        self.sink.report(
            "E662", span, message, fix="for example `1.0`, a bound for the norm, or `value(0.1)`"
        )
        return None

    # -- no_decay
    def undecayed(self, choices: Iterable[Choice]) -> frozenset[str]:
        """The parameters without weight decay. choices: all optimizers of the training."""
        train = self.checked.spec.document.train
        keys: Sequence[YScalar] = train.no_decay if train is not None else ()
        found: set[str] = set()
        for key in keys:
            if self._names_some(key):
                found.update(self.trained.select(key.value))
        if found and not any(choice.decay for choice in choices):
            self.sink.report(
                "W663",
                keys[0].span,
                "no optimizer has weight decay, so `no_decay` changes nothing",
                fix="for example `optimizer: adamw(weight_decay=0.01)`",
            )
        return frozenset(found)

    # -- keys
    def _entries(self, section: str) -> list[tuple[YScalar, YScalar]]:
        node = self.node(section)
        return [(k, v) for k, v in node if isinstance(v, YScalar)] if isinstance(node, YMap) else []

    def _names_some(self, key: YScalar) -> bool:
        if self.trained.select(key.value):
            return True
        if key.value in KINDS:
            self.sink.report("E660", key.content, f"no parameter that learns is one of `{key.value}`")
        else:
            report_key(key, self.trained.rows, self.trained.others, self.sink, "E660", words=tuple(KINDS))
        return False


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return bool(number and 0 < value < float("inf"))
