"""`train.columns`: which columns of the data each port takes, as ``{x: [a, b], y: label}``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Span
from r2d2c.syntax.yaml_nodes import YScalar
from r2d2c.train.data.dataset import Column, Dataset, Table, name_classes
from r2d2c.train.data.table_file import stack
from r2d2c.train.data.text_file import UNKNOWN
from r2d2c.train.refuse import refuse

Wanted = Mapping[str, Sequence[YScalar]]
"""The columns of each port, by its name and as the spec wrote them."""


def check_ports(wanted: Wanted, spans: Mapping[str, Span], ports: Collection[str], sink: Sink) -> None:
    """Report E591 for what is no port; ``spans`` are where the ports are named under `columns`."""
    for port, names in wanted.items():
        if not names:
            sink.report("E510", spans.get(port), f"`columns` names no column for port `{port}`")
        if port not in ports:
            listed = ", ".join(f"`{name}`" for name in ports) or "none"
            near = suggest(port, ports)
            sink.report(
                "E591",
                spans.get(port),
                f"`{port}` is no input or target of the spec, so it takes no column",
                notes=[f"its ports are: {listed}"],
                fix=near.text if near else None,
            )


def with_columns(dataset: Dataset, wanted: Wanted, sink: Sink) -> Dataset:
    """The data set with a column for each port of ``wanted``, under the port's name.

    One column is taken as it is; several, each ``[N]`` or ``[N, k]`` and of numbers, are put side by side, ``[N, width]``.
    Reports E510 for a column that there is not, E508 for one of classes among several, E511 for one of more axes.
    """
    for names in wanted.values():
        _check(dataset, names, sink)
    if not wanted or sink.failed:
        return dataset
    tables: dict[str, Table] = {}
    for split, table in dataset.splits.items():
        made = {port: _made(table, [name.value for name in names]) for port, names in wanted.items()}
        if "train" in tables:  # the names of train's classes hold for all
            known = tables["train"].columns
            made = {port: replace(column, classes=known[port].classes) for port, column in made.items()}
        else:
            made = {port: name_classes(column) for port, column in made.items()}
        tables[split] = Table({**table.columns, **made})
    return dataset.with_tables(tables)


def _check(dataset: Dataset, names: Sequence[YScalar], sink: Sink) -> None:
    for split, table in dataset.splits.items():
        for name in names:
            column = table.columns.get(name.value)
            if column is None:
                near = suggest(name.value, table.columns)
                message = f"the {split} data of {dataset.name} has no column `{name.value}`"
                notes = [f"its columns are: {', '.join(table.columns)}"]
                sink.report("E510", name.span, message, notes=notes, fix=near.text if near else None)
            elif len(names) > 1 and column.classes is not None:
                message = f"column `{name.value}` of {dataset.name} has classes, so it is not one of several"
                sink.report(
                    "E508", name.span, message, fix="give it a port of its own, as `i64[B]`, and an embedding"
                )
            elif len(names) > 1 and len(column.shape) > 1:
                message = f"column `{name.value}` of {dataset.name} is {column.type_text}, and only f32[N] and f32[N, k] can be put side by side"
                sink.report("E511", name.span, message)
        if sink.failed:
            return


def _made(table: Table, names: Sequence[str]) -> Column:
    columns = [table.columns[name] for name in names]
    return columns[0] if len(columns) == 1 else stack(columns)


def with_classes(dataset: Dataset, known: tuple[str, ...], span: Span | None) -> Dataset:
    """The data set with the numbers that a model's own training data gave the classes of ``y``; E594 for another class.

    A character that is in no vocabulary is `UNKNOWN`, if the model has that. Labels without names, of either, stay the
    numbers that they are.
    """
    import numpy

    classes = dataset.classes
    if classes is None or classes == known or _is_numbered(classes) or _is_numbered(known):
        return dataset
    number = {name: place for place, name in enumerate(known)}
    strange = [name for name in classes if name not in number]
    other = number.get(UNKNOWN)
    if strange and other is None:
        listed = ", ".join(f"`{name}`" for name in known[:20]) + (" …" if len(known) > 20 else "")
        message = f"{dataset.name} has the class `{strange[0]}`, which the model was not trained on"
        refuse("E594", message, span, notes=[f"its classes are: {listed}"])
    place = numpy.array([number.get(name, other) for name in classes], numpy.int64)

    def renumbered(table: Table) -> Table:
        changed = {
            name: replace(column, array=place[numpy.asarray(column.array)], classes=known)
            for name, column in table.columns.items()
            if column.classes == classes
        }
        return Table({**table.columns, **changed})

    return dataset.with_tables({split: renumbered(table) for split, table in dataset.splits.items()})


def _is_numbered(classes: tuple[str, ...]) -> bool:
    """Whether the classes are 0, 1, 2 …, in that order."""
    return classes == tuple(map(str, range(len(classes))))
