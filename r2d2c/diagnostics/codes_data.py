"""Diagnostics 5xx: data."""

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
pickle can run any code), or a csv column of numbers has a text in it, such as 1,5 for 1.5. Texts in a csv
file are fine as a target of classes.""",
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
A text or csv file has a byte that is not UTF-8, or a NUL character: it is in an older encoding, or is no text
but an archive or a spreadsheet. The message names the line and the byte.

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
        "E517",
        "no room for data",
        """\
A csv file of more than 256 MB is read once and kept as numbers in a temporary file, so that it need not fit into
memory. That file needs about as much room as the csv file. It is in /var/tmp, or in the folder that TMPDIR names,
and is gone when the command ends.

    TMPDIR=/data/tmp r2d2c train spec.yaml --data csv:large.csv""",
    ),
    Entry(
        "E539",
        "no such split",
        """\
The data has no split of this name. Splits are called train, validation and test; `r2d2c data SOURCE` shows
which there are. `train.split` holds out a share of the training data for validation.""",
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
)
