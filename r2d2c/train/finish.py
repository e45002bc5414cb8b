"""The summary that a training leaves in its run's folder."""

from __future__ import annotations

from typing import Any

from r2d2c.train.distributed.alone import Alone
from r2d2c.train.events import EarlyStop
from r2d2c.train.load import Loaded
from r2d2c.train.run import Run
from r2d2c.train.settings import Settings
from r2d2c.train.summary import growth_facts, optimizer_facts, summarize
from r2d2c.train.transplant_report import read_facts


def summarize_run(run: Run, settings: Settings, loaded: Loaded, device: str, team: Alone) -> None:
    """Write ``summary.txt`` of a finished run, in the process that writes."""
    report = team.report()
    if not team.first:
        return
    records = run.metrics
    state = run.files.load().state
    best = state["best"]
    facts: dict[str, Any] = {
        "data": loaded.name,
        "epochs": settings.epochs,
        "batch size": settings.batch_size,
        "optimizer": settings.optimizer,
        **optimizer_facts(settings),
        "seed": settings.seed,
        "device": device,
        **({"processes": "; ".join(report)} if report else {}),
        **growth_facts(state["growth"]["counts"]),
        **read_facts(run.folder),
        "time": f"{sum(record.get('seconds') or 0 for record in records):.1f} s of training",
    }
    stop = EarlyStop.of(state)
    if stop is not None:
        facts["stopped early"] = str(stop).removeprefix("stopped early ")
    if best is not None:
        facts["best"] = f"epoch {best['epoch']} by {best['monitor']} ({best['value']:.6g})"
    facts["test measured on"] = (
        f"the {run.which} checkpoint" if run.test else "nothing: the data has no test split"
    )
    run.files.write_summary(summarize(run.spec.name, records, facts))
