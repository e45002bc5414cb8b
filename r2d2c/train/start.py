"""`--from`: a run, or one checkpoint of it, that a new run starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.driver import Checked
from r2d2c.train.checkpoint import Checkpoint, load_checkpoint
from r2d2c.train.data.bind import TableSplit
from r2d2c.train.pack import is_archive
from r2d2c.train.refuse import refuse
from r2d2c.train.run import Run, open_run

if TYPE_CHECKING:
    from r2d2c.model import Model
    from r2d2c.train.loop import Trainer
    from r2d2c.train.transplant import Plan
    from r2d2c.train.transplant_report import Report

SAMPLES = 64  # that the old and the new model are compared on


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a new run starts from. names: the old names by the new ones."""

    source: str
    spec: Checked
    checkpoint: Checkpoint
    names: Mapping[str, str]

    def plan(self, model: Model) -> GoOn:
        """What would go where; refuses what cannot."""
        from r2d2c.train.transplant import plan_transplant

        return GoOn(self.source, plan_transplant(model, self.spec, self.checkpoint, self.names))


def find_start(
    start: Run | str | Path, rename: Sequence[str] | Mapping[str, str] = (), plugins: Iterable[Any] = ()
) -> Start:
    """A run's last checkpoint, or a checkpoint in a run's folder. rename: ``old=new``, or a mapping of these.

    Refuses what is no run (E523), damaged (E520), a checkpoint without its run (E583) and a rename that is none (E586).
    """
    names = _names(rename)
    if isinstance(start, Run):
        return Start(str(start.folder), start.spec, start.files.load("last"), names)
    path = Path(start)
    if path.suffix == ".safetensors" or (path.is_file() and not is_archive(path)):
        folder = path.absolute().parent.parent
        if not (folder / "spec.yaml").is_file():
            refuse(
                "E583",
                f"{path} is no checkpoint in a run's folder, so nothing says which spec it is of",
                fix="give the run's folder, or a file in its `checkpoints`",
            )
        run = open_run(folder, plugins=plugins)
        return Start(str(path), run.spec, load_checkpoint(path), names)
    run = open_run(path, plugins=plugins)
    return Start(str(path), run.spec, run.files.load("last"), names)


def _names(rename: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    pairs = list(rename.items()) if isinstance(rename, Mapping) else []
    for text in rename if not isinstance(rename, Mapping) else ():
        old, equals, new = text.partition("=")
        if not equals or not old.strip() or not new.strip():
            refuse("E586", f"`{text}` renames nothing", fix="write --rename OLD=NEW")
        pairs.append((old.strip(), new.strip()))
    twice = [new for _, new in pairs if [n for _, n in pairs].count(new) > 1]
    if twice:
        refuse("E586", f"two names become `{twice[0]}`", fix="give each its own")
    return {new: old for old, new in pairs}


@dataclass(frozen=True, slots=True, eq=False)
class GoOn:
    """A plan that fits a model: called with that model's training, before it runs, it comes true."""

    source: str
    plan: Plan

    def __call__(self, trainer: Trainer) -> Report:
        """Move everything, see whether the function stayed, and write the report into the run's folder.

        Both models run on samples of the new run's data, of a stream on random ones. Warns (W587) of an output that
        is not what it was.
        """
        from r2d2c.sampling import random_batch
        from r2d2c.train.transplant import apply
        from r2d2c.train.transplant_check import compare

        model = trainer.model
        report = apply(self.plan, model, trainer.stepper, self.source)
        trainer.growth.fresh = False
        if isinstance(trainer.data.train, TableSplit):
            batch = trainer.sample()[0]
        else:
            # A stream may be one that is read once.
            batch = {k: v.to(trainer.device) for k, v in random_batch(model.graph, model.graph.seed).items()}
        given = {name: tensor[:SAMPLES] for name, tensor in batch.items()}
        report = replace(report, outputs=compare(self.plan, model, given))
        report.write(trainer.run_folder.path)
        if report.differing:
            notes = [f"`{found.name}` {found}" for found in report.differing]
            trainer.sink.report("W587", None, f"the model is not what that of {self.source} was", notes=notes)
        return report
