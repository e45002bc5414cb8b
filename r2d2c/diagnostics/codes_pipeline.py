"""Diagnostics 650 to 656: what is done to training data on its way, and the processes that do it."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

PIPELINE: tuple[Entry, ...] = (
    Entry(
        "E650",
        "bad augmentation",
        """\
`train.augment` says for each port what is done to its samples: one augmentation, or several in a pipe, each a name
with named arguments. They are `crop`, `flip`, `jitter`, `cutout` and `noise`.

    train:
      augment: {x: crop(2) |> mirror}        # which argument is 2? There is no `mirror`
      augment: {x: crop(pad=2) |> flip}""",
    ),
    Entry(
        "E651",
        "argument of an augmentation that cannot be",
        """\
A chance lies between 0 and 1; a size in pixels is a whole number, 1 or more, and no greater than the image; what
noise and jitter do is not negative.

    augment: {x: cutout(size=40) |> flip(chance=2)}    # of images of 28x28
    augment: {x: cutout(size=8) |> flip}""",
    ),
    Entry(
        "E652",
        "augmentation of what is no port",
        """\
A key under `train.augment` is the name of an input or a target of the spec. Two views of one column are two ports
that take it.

    inputs: {a: "f32[B, 1, 28, 28]", b: "f32[B, 1, 28, 28]"}
    train:
      columns: {a: image, b: image}
      augment: {image: flip}                 # no port of the spec is called so
      augment: {a: flip, b: flip}            # each has draws of its own""",
    ),
    Entry(
        "E653",
        "augmentation that does not fit its port",
        """\
`crop`, `flip` and `cutout` are for images: samples of [H, W] or [C, H, W], or flat ones of which the data has the
image too, as a column `image`. `jitter` and `noise` are for floats.

    inputs: {x: "f32[B, 784]"}               # 28x28, or 1x784?
    inputs: {x: "f32[B, 1, 28, 28]"}         # flatten it in the model
    train: {augment: {x: crop(pad=2)}}""",
    ),
    Entry(
        "E654",
        "worker process that died",
        """\
A process that reads and augments training data ended before it was through: it was killed, as the system does when
memory runs out, or something that it calls crashed. The training stops; its last checkpoint is sound, and batches do
not depend on the number of workers.

    r2d2c train --resume runs/digits-001 --workers 0""",
    ),
    Entry(
        "E655",
        "workers on a system without fork",
        """\
Workers are copies of the training process. A system that cannot fork a process has none; the batches are the same
without them.

    r2d2c train spec.yaml --workers 0""",
    ),
    Entry(
        "W656",
        "augmentation that is not used",
        """\
Batches from Python are used as they come: `train.augment` is for data that r2d2c itself puts into batches. What is
to be done to them is up to the function or the `DataLoader` that gives them.

    r2d2c.train("spec.yaml", data=my_batches)          # the spec says `augment: {x: flip}`
    r2d2c.train("spec.yaml", data=my_batches, settings=["train.augment={}"])""",
    ),
)
