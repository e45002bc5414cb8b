"""Metrics: names, options and the number of what they compare."""

from __future__ import annotations

from r2d2c.verify.context import Context


def check_metrics(c: Context) -> None:
    if not c.graph.metrics:
        return
    # A module that imports torch only inside its functions.
    from r2d2c.train.metrics import find_metric

    for metric in c.graph.metrics:
        record = find_metric(metric.name, dict(metric.options), c.sink, metric.origin)
        # A mask of the targets' shape may follow.
        if record is not None and len(metric.args) not in (len(record.arguments), len(record.arguments) + 1):
            usage = f"usage: {metric.name}({', '.join(record.arguments)}[, mask])"
            message = (
                f"the metric `{metric.name}` compares {len(record.arguments)} values, not {len(metric.args)}"
            )
            c.sink.report("E418", metric.origin, message, usage)
