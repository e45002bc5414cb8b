"""Diagnostics 5xx: the settings of a training, what happens in it, and its checkpoints."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

TRAINING: tuple[Entry, ...] = (
    Entry(
        "E520",
        "damaged checkpoint",
        """\
A checkpoint is missing, cut off or altered: its checksum does not match what is in it. r2d2c replaces a
checkpoint only once the new one is whole, so this comes from outside (a copy that broke off, a bad disk).
`checkpoints/best.safetensors` is a second one in every run, with all that a resume needs.

    cp runs/first/checkpoints/best.safetensors runs/first/checkpoints/last.safetensors
    r2d2c train --resume runs/first""",
    ),
    Entry(
        "E521",
        "checkpoint of another model",
        """\
The checkpoint has other parameters, shapes or optimizer state than the spec. The notes list what differs.
Resume with the spec that is in the run folder, or start a new run.""",
    ),
    Entry(
        "E522",
        "run folder exists",
        """\
The folder for a new run is there already and is not empty. r2d2c never writes over a run.

    r2d2c train spec.yaml --out runs/second
    r2d2c train --resume runs/first""",
    ),
    Entry(
        "E523",
        "not a run folder",
        """\
A run folder has `spec.yaml`, `lock.json`, `metrics.jsonl` and `checkpoints/`. The folder given lacks one of
them, or what is in it cannot be read.""",
    ),
    Entry(
        "W524",
        "metrics are incomplete",
        """\
`metrics.jsonl` has fewer lines than the checkpoint has seen written, or a damaged one (a full disk, a power
cut). Training resumes exactly all the same; the curves have a gap.""",
    ),
    Entry(
        "W525",
        "resumed in other surroundings",
        """\
The run was started with other versions, another device or another number of threads than now. It goes on,
but sums may be taken in another order, so it need not equal an uninterrupted run bit for bit.""",
    ),
    Entry(
        "E530",
        "unknown optimizer",
        """\
The optimizer is not one of torch's by its name in lower case.

    optimizer: adm(lr=1e-3)
    optimizer: adam(lr=1e-3)
    optimizer: sgd(lr=0.1, momentum=0.9)""",
    ),
    Entry(
        "E531",
        "unknown argument",
        """\
An optimizer, a schedule or a metric has no argument of this name. The notes list those it has.

    optimizer: adam(momentum=0.9)         # adam has betas
    optimizer: adam(betas=(0.9, 0.99))""",
    ),
    Entry(
        "E532",
        "bad value of an argument",
        """\
An argument of an optimizer, a schedule or a metric has a value of the wrong type or outside its range.

    optimizer: adam(lr=-1)
    optimizer: adam(lr=1e-3)""",
    ),
    Entry(
        "E533",
        "unknown schedule",
        """\
The learning rate's schedule is not one of constant, linear, polynomial, cosine, cosine_restarts, one_cycle, cyclic,
step, multistep, exponential, plateau and warmup. `warmup` comes first and is followed by another.

    schedule: warmup(epochs=2) |> cosine""",
    ),
    Entry(
        "E534",
        "optimizer cannot train these parameters",
        """\
Some optimizers train only some parameters: muon orthogonalises matrices, so it refuses biases, norms and
convolutions. Give it the matrices alone.

    optimizer: adamw(lr=1e-3)
    optimizers:
      matrices: muon(lr=0.02)""",
    ),
    Entry(
        "E535",
        "unknown metric",
        """\
The metric is not one of accuracy, top_k_accuracy, perplexity, mse and mae, nor one of a plug-in.

    metrics:
      - acuracy(logits, y)
      - accuracy(logits, y)""",
    ),
    Entry(
        "E536",
        "loss is NaN or infinite",
        """\
A loss (or, before it is saved, a parameter) became NaN or infinite while training, so every number that
depends on it is lost. Training stops; the last good checkpoint is kept and named. The usual reasons are a
learning rate that is too large, and a division by zero, log(0), sqrt(0) or norm(0) in the spec.

The place that is shown is the first value (of a parameter: the first gradient, from the losses back) that is no
finite number while its arguments are. It is found by going on from the last checkpoint once more, up to that
batch; for batches from Python, and where several processes learn, the loss is shown instead.

    r2d2c train --resume runs/first                    # goes on from the last good checkpoint
    r2d2c train spec.yaml --set 'train.optimizer=adam(lr=1e-4)'""",
    ),
    Entry(
        "E540",
        "bad optimizer or schedule",
        """\
An optimizer or a schedule is a name with named arguments: numbers, names or tuples of numbers. Only a
schedule may be a pipe.

    optimizer: adam(2e-3)                       # which argument is this?
    optimizer: adam(lr=2e-3)
    schedule: warmup(epochs=2) |> cosine""",
    ),
    Entry(
        "E541",
        "nothing of this name to monitor",
        """\
`monitor` names what decides which checkpoint is best: one of the metrics, one of the losses, or `loss`, the
weighted sum of all losses.

    train:
      metrics:
        - accuracy(logits, y)
      monitor: accuracy(logits, y)""",
    ),
    Entry(
        "E542",
        "bad share for `split`",
        """\
`split` is the share of the training data that is held out for validation where the data has no validation
split of its own: a number between 0 and 1.

    train:
      split: 0.1""",
    ),
    Entry(
        "E543",
        "no such device",
        """\
The device is not there: no such GPU, no driver, or a build of torch without support for it. The note lists
the devices that there are. `pip install torch` from the index of the right CUDA version brings support.

    r2d2c train spec.yaml --device cuda:0""",
    ),
    Entry(
        "W546",
        "representative has collapsed",
        """\
The representative of a task becomes the same for every sample: its standard deviation over a batch is below
2 % of its scale, or has fallen to less than half of the widest it was while its scale fell less. The task's
own loss then looks excellent, because a constant is easy to hit, and nothing is learned. It happens when
nothing but the task's own loss teaches the representative, as with the default feed: no loss further on then
sees it. Training goes on; the warning comes once. `metrics.jsonl` has the spread of every epoch.

    links:
      encode.h -> classify: {credit: local, feed: encode.r}
    tasks:
      encode:
        teach: encode + classify""",
    ),
    Entry(
        "W547",
        "nothing to measure the monitor on",
        """\
`monitor` names a metric, and the data has no validation split. The test split is never looked at before the
end, so the training loss decides which checkpoint is best.

    train:
      split: 0.1            # holds out a tenth of the training data for validation""",
    ),
    Entry(
        "E548",
        "run cannot go on like this",
        """\
A run is resumed with the settings it was started with: they are in its `spec.yaml`. Only more epochs, the
data's place, the device and the threads can be given anew; a finished run goes on only with more epochs.

    r2d2c train --resume runs/first --epochs 60""",
    ),
    Entry(
        "E549",
        "learning rate of no parameter",
        """\
A key of `rates` is the beginning of parameters' names, with `*` for one part of a name or a piece of it. No
trained parameter has a name like that. `r2d2c compile SPEC --emit training` lists the names: the task, the
value (of its behavior or its representative), the layer, the parameter.

    train:
      rates:
        encode.r: 0.1                   # encode.r.linear.weight, …
        "*.synthetic": 10               # look.synthetic.predictor.weight, …""",
    ),
    Entry(
        "E550",
        "bad factor of a learning rate",
        """\
A value of `rates` is what the learning rate is multiplied with for some parameters: a number that is not
negative. With 0 they keep the values they start with.

    train:
      rates:
        encode.r: 0.1""",
    ),
)
