"""Diagnostics 620 to 629: archives of runs, and where a training is logged."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

RUNS: tuple[Entry, ...] = (
    Entry(
        "E620",
        "damaged archive of a run",
        """\
The archive was cut off or changed: it is no zip file, lacks a member, or a member has another checksum than the
archive says. Nothing of it is used. Get it again, or pack the run once more.

    r2d2c pack runs/first -o first.r2d2c""",
    ),
    Entry(
        "E621",
        "archive with what no run has",
        """\
An archive of a run has some known members, texts and safetensors, each of a bounded size. This one has others: a
path that leads out of the folder, a link, a pickle, a member that is far larger unpacked, or two of one name. It was
not made by `r2d2c pack`, so none of it is unpacked.

    r2d2c pack runs/first -o first.r2d2c""",
    ),
    Entry(
        "E622",
        "library of a log is missing",
        """\
`--log` was given a service whose library is not installed, or does not load. r2d2c does not install it.

    pip install wandb
    r2d2c train spec.yaml --log wandb""",
    ),
    Entry(
        "E623",
        "unknown log",
        """\
What follows `--log` is where a training is logged besides its folder: wandb, mlflow, tensorboard, or a log that a
plug-in brings in `SINKS`. Only who runs a spec can ask for it, not the spec.

    r2d2c train spec.yaml --log wadnb
    r2d2c train spec.yaml --log wandb""",
    ),
    Entry(
        "E624",
        "archive exists",
        """\
The file that `r2d2c pack` would write is there already.

    r2d2c pack runs/first -o other.r2d2c
    r2d2c pack runs/first --force""",
    ),
    Entry(
        "W625",
        "log stopped",
        """\
A service that a training is logged to (`--log`) failed: no network, no account, or a full disk. The training goes on;
nothing more is logged there. `metrics.jsonl` of the run has everything.

    r2d2c train spec.yaml --log wandb
    WANDB_MODE=offline r2d2c train spec.yaml --log wandb""",
    ),
)
