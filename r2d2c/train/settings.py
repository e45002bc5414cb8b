"""The settings of a training: what the spec's `train:` section says, with defaults. Nothing here imports
torch.

The command line and Python change the section itself (``--set train.epochs=3``), so that the resolved spec
in a run's folder says everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink, suggest
from r2d2c.driver import Checked
from r2d2c.graph import Metric as GraphMetric
from r2d2c.passes.credit import active_losses
from r2d2c.sizes import Number, check_choices
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.spec import parse_scalar
from r2d2c.syntax.yaml_nodes import YMap
from r2d2c.train.augmentation import Changes, read_augment
from r2d2c.train.calls import Call, constant, read_calls
from r2d2c.train.chunks import Chunks, read_chunks
from r2d2c.train.clipping import Clip
from r2d2c.train.data.plan import stable_seed
from r2d2c.train.metrics import Metric, find_metric
from r2d2c.train.optimizers import OPTIMIZERS, OptimizerRecord
from r2d2c.train.plans import Choice, Reader
from r2d2c.train.precision import check_precision
from r2d2c.train.rates import read_rates
from r2d2c.train.schedules import check_schedule

EPOCHS, BATCH_SIZE = 10, 128
TOTAL = "loss"
_ADAM = next(record for record in OPTIMIZERS if record.name == "adam")
"""The name of the weighted sum of all losses, as a monitor."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric and the outputs, inputs and targets that it compares. ``label`` names it in records."""

    label: str
    metric: Metric
    args: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Monitor:
    """What decides which checkpoint is best: a metric's label, a loss's name, or `TOTAL`."""

    kind: Literal["metrics", "losses", "total"]
    name: str
    better: Literal["higher", "lower"] = "lower"
    span: Span | None = None
    given: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """split: the share of the training data that is held out for validation where the data has none.
    rates: the factor on the learning rate of every parameter that has one, by its name.
    sizes: of arguments of the model, the numbers that one is drawn of for every batch.
    chunks: into which parts a sequence is cut for learning.
    others: the optimizers of those parameters that have another one than ``optimizer``; undecayed: the parameters
    without weight decay; clips: the bounds of gradients, by parameter. accumulate: how many batches make a step.
    early_stop: after how many epochs without progress of the monitor training stops.
    augment: what is done to training samples, by port; workers: how many processes do that and read.
    """

    data: str | None
    data_span: Span | None
    epochs: int
    batch_size: int
    seed: int
    optimizer: Call
    record: OptimizerRecord
    schedule: tuple[Call, ...]
    metrics: tuple[Measured, ...]
    monitor: Monitor
    split: float | None = None
    others: Mapping[str, Choice] = field(default_factory=dict)
    undecayed: frozenset[str] = frozenset()
    clips: Mapping[str, Clip] = field(default_factory=dict)
    accumulate: int = 1
    precision: str = "f32"
    precision_span: Span | None = None
    early_stop: int | None = None
    augment: Changes = field(default_factory=dict)
    workers: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    chunks: Chunks | None = None

    def choice(self, name: str) -> Choice:
        """The optimizer of a parameter."""
        return self.others.get(name, Choice("", self.optimizer, self.record))

    def sizes_at(self, step: int) -> dict[str, Number]:
        """The sizes of a learning pass, which depend on nothing but the seed and its number."""
        return {
            name: choices[stable_seed("size", name, self.seed, step) % len(choices)]
            for name, choices in self.sizes.items()
        }


def read_settings(checked: Checked, sink: Sink) -> Settings | None:
    """The settings of a checked spec, or None after a diagnostic for every mistake in them."""
    train = checked.spec.document.train
    dims = checked.graph.dims

    def parsed(key: str) -> Syntax | None:
        scalar = getattr(train, key) if train is not None else None
        return parse_scalar(scalar, parse_expression, sink)  # type: ignore[no-any-return]

    before = len(sink.diagnostics)
    usual: Choice | None
    reader = Reader(checked, sink)
    usual = Choice("", Call("adam"), _ADAM)
    if train is not None and train.optimizer is not None:
        usual = reader.choice(parsed("optimizer"))
    schedule = _schedule(parsed("schedule"), dims, sink)
    metrics = measured(checked.graph.metrics, sink)
    trained = list(active_losses(checked.graph, rules(checked.rules)))
    monitor = _monitor(parsed("monitor"), metrics, trained, sink)
    split = _split(parsed("split"), dims, sink)
    augment = read_augment(checked, sink)
    factors = read_rates(checked, sink)
    others, clips = reader.optimizers(usual), reader.clips()
    undecayed = reader.undecayed([choice for choice in (usual, *others.values()) if choice is not None])
    sizes = _sizes(checked, sink)
    precision = train.precision if train is not None and train.precision is not None else "f32"
    check_precision(checked, precision, train.at("precision") if train is not None else None, sink)
    chunks = read_chunks(checked, sink)
    if any(d.severity == "error" for d in sink.diagnostics[before:]) or usual is None:
        return None

    def given(key: str, default: Any) -> Any:
        value = getattr(train, key) if train is not None else None
        return default if value is None else value

    return Settings(
        data=given("data", None),
        data_span=train.at("data") if train is not None else None,
        epochs=given("epochs", EPOCHS),
        batch_size=given("batch_size", BATCH_SIZE),
        seed=checked.graph.seed,
        optimizer=usual.call,
        record=usual.record,
        schedule=schedule,
        metrics=metrics,
        monitor=monitor,
        split=split,
        others=others,
        undecayed=undecayed,
        clips=clips,
        accumulate=given("accumulate", 1),
        precision=precision,
        precision_span=train.at("precision") if train is not None else None,
        early_stop=given("early_stop", None),
        augment=augment,
        workers=given("workers", 0),
        rates=factors,
        sizes=sizes,
        chunks=chunks,
    )


def _sizes(checked: Checked, sink: Sink) -> dict[str, Sequence[Number]]:
    train = checked.spec.document.train
    node = train.node.get("sizes") if train is not None and isinstance(train.node, YMap) else None
    found = {}
    for name, value in train.sizes.items() if train is not None else ():
        key = node.key(name) if isinstance(node, YMap) else None
        place = None if key is None else key.span
        choices = check_choices(checked.graph, name, value.value, value.span, sink, place)
        if choices is not None:
            found[name] = choices
    return found


def overrides(**values: Any) -> list[str]:
    """`--set` texts for the keys of `train:` that are not None."""
    return [f"train.{key}={_yaml(value)}" for key, value in values.items() if value is not None]


def _yaml(value: Any) -> str:
    # A data source may have `#`, `:` and `?` in it; a JSON text is a YAML text.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def measured(metrics: Sequence[GraphMetric], sink: Sink) -> tuple[Measured, ...]:
    """The records of the spec's metrics, with labels that differ."""
    found = []
    for metric in metrics:
        options = dict(metric.options)
        record = find_metric(metric.name, options, sink, metric.origin)
        if record is not None:
            found.append(Measured(metric.label, record, metric.args, options, metric.origin))
    return tuple({m.label: m for m in found}.values())


def _schedule(syntax: Syntax | None, dims: Mapping[str, Any], sink: Sink) -> tuple[Call, ...]:
    if syntax is None:
        return ()
    calls = read_calls(syntax, "schedule", dims, sink) or ()
    check_schedule([(c.name, c.arguments) for c in calls], sink, [c.span for c in calls])
    return calls


def _monitor(syntax: Syntax | None, metrics: tuple[Measured, ...], losses: list[str], sink: Sink) -> Monitor:
    if syntax is None:
        first = metrics[0] if metrics else None
        return Monitor("metrics", first.label, first.metric.better) if first else Monitor("total", TOTAL)
    span = syntax.span(syntax.root)
    wanted = "".join(span.text.split())
    for m in metrics:
        if wanted in ("".join(m.label.split()), m.metric.name):
            return Monitor("metrics", m.label, m.metric.better, span, True)
    if wanted in losses:
        return Monitor("losses", wanted, "lower", span, True)
    if wanted != TOTAL:
        known = [*(m.label for m in metrics), *losses, TOTAL]
        names = ", ".join(f"`{name}`" for name in known)
        message = f"there is no metric or loss `{span.text}` to monitor"
        sink.report("E541", span, message, notes=[f"it may be one of {names}"], fix=suggest(span.text, known))
    return Monitor("total", TOTAL, "lower", span, True)


def _split(syntax: Syntax | None, dims: Mapping[str, Any], sink: Sink) -> float | None:
    if syntax is None:
        return None
    value = constant(syntax, syntax.root, dims)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    span = syntax.span(syntax.root)
    sink.report(
        "E542",
        span,
        f"`split` must lie between 0 and 1, not be `{span.text}`",
        fix="for example `split: 0.1`",
    )
    return None
