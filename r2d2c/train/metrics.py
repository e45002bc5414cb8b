"""Metrics: sums and counts that are exact whatever the sizes of the batches they came in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Span
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
"""Sums in float64 on the device of the inputs. Two states are added key by key, also over processes."""

Shape = Literal["classes", "same"]

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    ``shape`` is what it wants of its ``arguments``: ``classes`` is floats ``[..., C]`` against integers
    ``[...]``, ``same`` is two of one shape. ``sums`` gives the addends of one batch, the ``count`` among
    them, each element weighted by an optional ``mask`` of the targets' shape; ``value`` turns the totals
    into the metric.
    """

    name: str
    doc: str
    shape: Shape
    better: Literal["higher", "lower"]
    sums: Callable[[Tensor, Tensor, Tensor | None, Mapping[str, Any]], State]
    value: Callable[[Mapping[str, float]], float]
    arguments: tuple[str, ...] = ("predictions", "targets")
    options: Mapping[str, Any] = field(default_factory=dict)

    def init(self) -> State:
        """The state before any batch."""
        return {}

    def update(
        self,
        state: State,
        predictions: Tensor,
        targets: Tensor,
        mask: Tensor | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> State:
        """The state with one batch more; nothing waits for the device. E511 for wrong shapes."""
        self._check(predictions, targets, mask)
        import torch

        with torch.no_grad():
            addends = self.sums(predictions, targets, mask, {**self.options, **options})
            return {key: state[key] + value if key in state else value for key, value in addends.items()}

    def compute(self, state: State) -> float:
        """The metric over all batches so far; NaN if there were none (or all was masked)."""
        totals = {key: float(value) for key, value in state.items()}
        return self.value(totals) if totals.get("count") else math.nan

    def improves(self, new: float, old: float | None) -> bool:
        """Whether a value is better than an older one (NaN never is)."""
        if math.isnan(new):
            return False
        if old is None or math.isnan(old):
            return True
        return new > old if self.better == "higher" else new < old

    def _check(self, predictions: Tensor, targets: Tensor, mask: Tensor | None) -> None:
        wanted = predictions.shape[:-1] if self.shape == "classes" else predictions.shape
        if targets.shape != wanted or (mask is not None and mask.shape != targets.shape):
            masked = f" under a mask {list(mask.shape)}" if mask is not None else ""
            refuse(
                "E511",
                f"metric `{self.name}` got predictions {list(predictions.shape)} "
                f"and targets {list(targets.shape)}{masked}",
                notes=[
                    "it wants targets of the predictions' shape without the last axis, the classes"
                    if self.shape == "classes"
                    else "it wants both of one shape"
                ],
            )


def _weighted(values: Tensor, mask: Tensor | None) -> State:
    """The sum and count of one value per target. float64, so that the order of batches cannot be seen."""
    import torch

    if mask is None:
        count = torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)
        return {"sum": values.sum(dtype=torch.float64), "count": count}
    weights = mask.to(torch.float64)
    # where, because a masked value may be NaN, and 0 · NaN is NaN
    return {"sum": torch.where(weights == 0, 0, values * weights).sum(), "count": weights.sum()}


def _accuracy(predictions: Tensor, targets: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> State:
    return _weighted(predictions.argmax(-1) == targets, mask)


def _top_k(predictions: Tensor, targets: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> State:
    best = predictions.topk(min(int(options["k"]), predictions.shape[-1]), dim=-1).indices
    return _weighted((best == targets.unsqueeze(-1)).any(-1), mask)


def _cross_entropy(
    predictions: Tensor, targets: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> State:
    import torch

    flat = predictions.reshape(-1, predictions.shape[-1])
    flat = flat if flat.dtype == torch.float64 else flat.float()
    each = torch.nn.functional.cross_entropy(flat, targets.reshape(-1).long(), reduction="none")
    return _weighted(each.view(targets.shape), mask)


def _squared(predictions: Tensor, targets: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> State:
    return _weighted(_difference(predictions, targets).square(), mask)


def _absolute(predictions: Tensor, targets: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> State:
    return _weighted(_difference(predictions, targets).abs(), mask)


def _difference(predictions: Tensor, targets: Tensor) -> Tensor:
    import torch

    # bfloat16 has 8 bits: subtract in something that holds both.
    exact = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    return predictions.to(exact) - targets.to(exact)


def _mean(totals: Mapping[str, float]) -> float:
    return totals["sum"] / totals["count"]


def _exp_mean(totals: Mapping[str, float]) -> float:
    mean = _mean(totals)
    return math.exp(mean) if mean < 700 else math.inf


METRICS: tuple[Metric, ...] = (
    Metric(
        "accuracy", "the part of targets that are the likeliest class", "classes", "higher", _accuracy, _mean
    ),
    Metric(
        "top_k_accuracy",
        "the part of targets among the k likeliest classes",
        "classes",
        "higher",
        _top_k,
        _mean,
        options={"k": 5},
    ),
    Metric(
        "perplexity",
        "the exponential of the mean cross entropy (natural logarithm) of logits",
        "classes",
        "lower",
        _cross_entropy,
        _exp_mean,
    ),
    Metric("mse", "the mean squared difference over all elements", "same", "lower", _squared, _mean),
    Metric("mae", "the mean absolute difference over all elements", "same", "lower", _absolute, _mean),
)


def find_metric(
    name: str,
    options: Mapping[str, Any],
    sink: Sink,
    span: Span | None = None,
    extra: tuple[Metric, ...] = (),
) -> Metric | None:
    """The metric of a name; reports E535 for an unknown name, E531 and E532 for options, and gives None."""
    known = {metric.name: metric for metric in (*extra, *METRICS)}
    if name not in known:
        sink.report(
            "E535",
            span,
            f"there is no metric `{name}`",
            notes=[f"metrics: {', '.join(sorted(known))}"],
            fix=suggest(name, known),
        )
        return None
    metric = known[name]
    sound = True
    for key, value in options.items():
        if key not in metric.options:
            sound = False
            listed = ", ".join(metric.options) or "none"
            near = suggest(key, metric.options)
            sink.report(
                "E531",
                span,
                f"metric `{name}` has no option `{key}`",
                notes=[f"its options: {listed}"],
                fix=near.text if near else None,
            )
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            sound = False
            sink.report(
                "E532",
                span,
                f"option `{key}` of metric `{name}` must be a whole number from 1, not {value!r}",
            )
    return metric if sound else None
