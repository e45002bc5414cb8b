"""Diagnostics 590 to 599: sources of data that plug-ins and other libraries bring, and columns for ports."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

SOURCES: tuple[Entry, ...] = (
    Entry(
        "E590",
        "library of a data source is missing",
        """\
A data source reads its data with a library that r2d2c does not install, and it is not there, or is of a version
that may run code that comes with data.

    pip install datasets
    r2d2c train spec.yaml --data hf:ylecun/mnist""",
    ),
    Entry(
        "E591",
        "columns for what is no port",
        """\
A key under `train.columns` is the name of an input or a target of the spec; its value is a column of the data, or
several that are put side by side.

    inputs: {x: "f32[B, 2]"}
    targets: {y: "i64[B]"}
    train:
      data: csv:wine.csv
      columns: {features: [acid, sugar], y: quality}   # there is no port `features`
      columns: {x: [acid, sugar], y: quality}""",
    ),
    Entry(
        "E592",
        "a data source of a plug-in that cannot be used",
        """\
`DATA_SOURCES` of a plug-in is a tuple of `DataSource` records. Their names are small letters, digits and `_`, and
are not those of built-in sources, which `r2d2c data` lists.

    DATA_SOURCES = (DataSource("csv", "mine", "csv:FILE", open_mine),)       # `csv` is built in
    DATA_SOURCES = (DataSource("my_csv", "mine", "my_csv:FILE", open_mine),)""",
    ),
    Entry(
        "E593",
        "a data source of a plug-in that fails",
        """\
The function `open` of a plug-in's data source raised an error, or returned something else than a `Dataset`. The
note names the line that raised it.

    def open_mine(argument, context):
        return numpy.load(argument)                                       # an array is no data set
        return Dataset("mine", Table({"x": Column(numpy.load(argument))}))""",
    ),
    Entry(
        "E594",
        "classes of other data",
        """\
A trained model gives a number for each class that its training data had, in the order of their names. Other data
may have fewer of them, but none that the model has never seen.

    r2d2c eval runs/wine-001 --data csv:new.csv   # `quality` is `fair`: it was good or bad in training""",
    ),
    Entry(
        "E595",
        "a column without a scale",
        """\
A model that was trained on columns with `?scale=standard` gets other data shifted and scaled by the numbers of its
training. A column that was not there then has none, nor has one that is of more or fewer numbers now.
`?scale=none` takes the values as they are.

    r2d2c predict runs/wine-001 --data 'csv:new.csv?features=acid,salt'    # trained on acid and sugar
    r2d2c predict runs/wine-001 --data 'csv:new.csv?features=acid,sugar'""",
    ),
)
