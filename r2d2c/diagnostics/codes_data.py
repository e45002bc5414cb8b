"""Diagnostics 5xx: data, runs and training."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

DATA: tuple[Entry, ...] = (
    Entry(
        "E501",
        "unknown data source",
        """\
The word before the colon is not the name of a data source. `r2d2c data` lists them.

    train:
      data: digit          # there is no data source `digit`
      data: digits         # built in
      data: csv:wine.csv   # SOURCE:ARGUMENT?OPTION=VALUE&OPTION=VALUE""",
    ),
    Entry(
        "E502",
        "bad argument of a data source",
        """\
A data source got an argument or an option it does not have, or a value that it cannot use.

    --data 'text:book.txt?lenght=64'   # unknown option `lenght`
    --data 'text:book.txt?length=64'

Quote the argument for the shell when it has `?` or `&` in it. `r2d2c data` shows every source's options.""",
    ),
    Entry(
        "E503",
        "data cannot be read",
        """\
A file or folder of data is missing, is of another kind (a folder for a file), or may not be read. The path
starts at the working folder when it was given on the command line, and at the spec's folder when the spec
names it.""",
    ),
    Entry(
        "E504",
        "data outside the spec's folder",
        """\
A spec may have come from a stranger, so it may name only data inside its own folder: an absolute path, `..`
and a link that leads out of the folder are refused. Paths on the command line have no such limit.

    train:
      data: csv:../../secret.csv       # refused
    r2d2c train spec.yaml --data csv:../../mine.csv    # fine""",
    ),
    Entry(
        "E505",
        "damaged data file",
        """\
A data file is cut off, altered or not of the format that its source reads. The message names the file and
the line, the byte or the array. Fetch the file again, and compare its size with the original.""",
    ),
    Entry("E506", "no data", "A data file, an array or a split has no samples in it."),
    Entry(
        "E507",
        "data of uneven shape",
        """\
The parts of a data set do not fit each other: csv rows with more or fewer cells than the header, a header
without names, arrays with different numbers of rows, as many labels as there are not images.

    a,b,y
    1,2,0
    3,4        # line 3 has 2 cells, where the header has 3""",
    ),
    Entry(
        "E508",
        "data that is not numbers",
        """\
Numbers were expected: an npz array holds Python objects or texts (r2d2c never unpickles data, because a
pickle can run any code), or a csv column of numbers has a text in it. Texts in a csv file are fine as a
target of classes.""",
    ),
    Entry(
        "E509",
        "missing or infinite value",
        """\
A value is NaN, infinite or an empty cell. One such value makes every loss and soon every parameter NaN, so
it is refused before training. Drop the row, or fill in a value of your choice before r2d2c reads the
file.""",
    ),
    Entry(
        "E510",
        "no column for a port",
        """\
A port takes the data's column of its own name, and the data has none. Rename the port or the column.

    inputs:
      pixels: f32[B, 64]   # digits has the columns x, image and y
      x: f32[B, 64]        # fits""",
    ),
    Entry(
        "E511",
        "shape of data and port differ",
        """\
A sample of the data has another shape than its port declares. The first dim, the batch, is not compared,
and a dynamic dim takes any size. A sample with as many elements is reshaped; any other is an error.

    dims: {D: 784}
    inputs:
      x: f32[B, D]         # but `digits` gives f32[N, 64]""",
    ),
    Entry(
        "E512",
        "kind of data and port differ",
        """\
The data has floats where the port has integers or booleans. Integers go into a float port as they are, but
floats never become integers silently, because that would round them.

    targets:
      y: i64[B]            # the column is f64[N]: a regression target
      y: f32[B]            # fits""",
    ),
    Entry(
        "E513",
        "value out of range",
        """\
An integer is outside the range that its port has: a class label below 0 or not below the number of classes,
a character id outside the vocabulary, a number too large for an i8. The message names the first such
sample.

    dims: {C: 9}
      distance: cross_entropy(logits, y)   # `digits` has labels 0 … 9: C must be 10""",
    ),
    Entry(
        "E514",
        "bad batch from Python",
        """\
`r2d2c.train(spec, data=...)` takes an iterable of batches that can be run through once per epoch. A batch
maps each port to a tensor, an array or a list; all have the same first dim. A generator can be run through
only once: give a function that makes a new one.

    def batches(epoch):                       # with its parameter, a resumed run can be exact
        for i in range(100):
            yield {"x": x[i], "y": y[i]}""",
    ),
    Entry(
        "E515",
        "text is not UTF-8",
        """\
A text or csv file has a byte that is not UTF-8, or a NUL character. The message names the line and the byte.

    iconv -f latin1 -t utf-8 book.txt > book-utf8.txt""",
    ),
    Entry(
        "E516",
        "too few samples",
        """\
A split would have no samples, a text is shorter than one sample of its splits, or a batch is larger than
all the data while incomplete batches are dropped. Ask for a smaller batch, a shorter length or another
fraction.""",
    ),
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
        "E539",
        "no such split",
        """\
The data has no split of this name. Splits are called train, validation and test; `r2d2c data SOURCE` shows
which there are. `train.split` holds out a share of the training data for validation.""",
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
        "E544",
        "data does not tell a size",
        """\
A dim that is `infer` gets its size from the shape of the column that feeds a port, or from the number of
classes. This data has no column for a port with that dim, or does not say how many classes there are.

    dims: {D: infer, C: infer}
    inputs:
      x: f32[B, D]          # D is the width of column `x`""",
    ),
    Entry(
        "E545",
        "no data",
        """\
Neither the spec nor the command says which data to use, or a run was trained on batches from Python, which
a run's folder cannot hold.

    r2d2c train spec.yaml --data digits""",
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
