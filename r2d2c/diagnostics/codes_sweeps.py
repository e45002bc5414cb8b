"""Diagnostics 640-643: sweeps over settings of a spec."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SWEEPS: tuple[Entry, ...] = (
    Entry(
        "E640",
        "a sweep over nothing that can be varied",
        """\
`--over KEY=VALUES` says what a sweep varies. The key is one that `--set` takes, or `credit`. Values have commas
between, outside of brackets; a range has two dots, and `:log` or a step. Braces make a hole in a longer text. Seeds
are counted with `--seeds`.

    r2d2c sweep net.yaml --over credit=backprop,direct --over dims.H=64,128
    r2d2c sweep net.yaml --over "train.optimizer=adam(lr={0.1,0.01})"
    r2d2c sweep net.yaml --over "train.optimizer=adam(lr={1e-4..1e-1:log})" --sampler tpe --trials 30""",
    ),
    Entry(
        "E641",
        "a grid without an end",
        """\
A grid tries every combination, so each key needs values that can be counted: a list, a range of whole numbers, or a
range with a step. From other ranges `tpe` and `random` draw as many settings as `--trials` says; so they do from spaces
that are too large to try.

    r2d2c sweep net.yaml --over "tasks.t.behavior=h = x |> dropout({0.1..0.5:0.1})"
    r2d2c sweep net.yaml --over "train.optimizer=adam(lr={1e-4..1e-1:log})" --sampler random --trials 20""",
    ),
    Entry(
        "E642",
        "the folder of another sweep",
        """\
The folder has a sweep of another spec, other keys and values, other seeds, or another sampler, or a process is just
working on it. The same command goes on with a sweep; `--trials` may grow. Everything else needs another folder.

    r2d2c sweep net.yaml --over dims.H=64,128 -o sweeps/width
    r2d2c sweep net.yaml --over dims.H=64,128,256 -o sweeps/width-2""",
    ),
    Entry(
        "E643",
        "a database that cannot be used",
        """\
A sweep keeps its settings in SQLite in its own folder. With `--storage` they are in a database that many machines
reach, by a URL as SQLAlchemy has it. Its driver must be installed, and the server must let you in. The same command on
every machine then works on the same sweep, each in a folder of its own.

    r2d2c sweep net.yaml --over dims.H=64,128 --storage postgresql://user@host/sweeps
    r2d2c sweep net.yaml --over dims.H=64,128 --storage sqlite:////shared/sweeps.db""",
    ),
)
