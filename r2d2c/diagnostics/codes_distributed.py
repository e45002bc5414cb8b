"""Diagnostics 630 to 639: training with several processes."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

DISTRIBUTED: tuple[Entry, ...] = (
    Entry(
        "E630",
        "batches that processes cannot share",
        """\
With several processes each learns a share of every batch. Where an op mixes samples, the processes ask each other for
theirs. They cannot in the steps of a loop whose samples halt, for each takes other steps then, nor where e-prop learns
from single samples. And an op of a plug-in that mixes samples has to say so (`mixes`). A few samples are learned both
whole and in shares before a training, and must give the same gradients.

    loops:
      think(x):
        until: p
        carry: {c: "f32[B, S] = zeros"}
        body: |
          c = tanh(linear(c, S) - mean(c, axes=0, keep=true))   # over samples, of which some have halted
          p = sigmoid(linear(c, 1))[:, 0]""",
    ),
    Entry(
        "E631",
        "several processes that cannot be had",
        """\
`--parallel` and `--shard-optimizer` say what several processes do, and `torchrun` starts these; each is one call of
`r2d2c train`.

    r2d2c train spec.yaml --parallel tasks
    torchrun --nproc-per-node 2 -m r2d2c train spec.yaml --parallel tasks""",
    ),
    Entry(
        "E632",
        "batch with fewer samples than processes",
        """\
Every process learns some samples of every batch, of the last one of an epoch too, which may be small.

    torchrun --nproc-per-node 4 -m r2d2c train spec.yaml --batch-size 66   # 1000 samples: the last batch has 10
    torchrun --nproc-per-node 4 -m r2d2c train spec.yaml --batch-size 37   # the last batch has one""",
    ),
    Entry(
        "E633",
        "tasks that processes cannot divide",
        """\
With `--parallel tasks` each process trains tasks of its own: values go forward from one to the next, and no gradient
comes back. So all that trains a parameter must lie in one process. A link whose credit is not `local` joins its tasks,
and so does a representative that the loss of a later task teaches.

    links:
      encode.h -> classify: {credit: backprop}   # one process has to train both
      encode.h -> classify: {credit: local}""",
    ),
    Entry(
        "E634",
        "training that cannot be found again",
        """\
When a process fails, `torchrun --max-restarts` starts all of them again, with the same command. The training then goes
on by its last checkpoint, which is in the folder that `--out` names, also of an archive that `--resume` opens.

    torchrun --max-restarts 3 --nproc-per-node 2 -m r2d2c train spec.yaml
    torchrun --max-restarts 3 --nproc-per-node 2 -m r2d2c train spec.yaml --out runs/mine""",
    ),
    Entry(
        "E635",
        "another process is gone",
        """\
A process of the training was killed, crashed, or can no longer be reached; the others stop, with the exit code 3. The
run is as its last checkpoint left it.

    torchrun --nproc-per-node 2 -m r2d2c train --resume runs/mine""",
    ),
    Entry(
        "E636",
        "training that processes cannot divide by tasks",
        """\
With `--parallel tasks` processes are at different batches at the same time. What needs all tasks at one batch cannot
be trained so: a norm of all gradients, op graphs that grow, losses that do not train at every step, and sequences in
parts.

    train:
      chunk: 16    # one process, or --parallel data""",
    ),
)
