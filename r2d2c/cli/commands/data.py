"""`r2d2c data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import print_diagnostics, print_json, print_table
from r2d2c.cli.load import load
from r2d2c.cli.options import CreditOption, FormatOption, PluginOption, SetOption
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.driver import Checked
    from r2d2c.train.data import Dataset


def command(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="As `digits` or `csv:wine.csv`; without one, all are listed.",
            show_default=False,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            "--spec", metavar="SPEC", help="See whether the data fits this spec, and how.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="How many samples to show.")] = 3,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """List data sources, or show what one gives: its splits, columns and first samples.

    With --spec the data is bound to the ports of a spec; without SOURCE it is what the spec names.
    """
    if spec is None and source is None:
        _list(format_, plugins)
        return
    checked = load(spec, with_credit(settings, credit), plugins) if spec is not None else None
    dataset = _open(source, checked, plugins)
    if format_ == "json":
        print_json(_json(dataset, samples))
    else:
        print(dataset.describe())
        if samples:
            print()
            _show(dataset, samples)
    if checked is not None:
        _bind(dataset, checked, quiet=format_ == "json")


FAMILIES = {
    "ready": "ready sets",
    "files": "files and folders",
    "generated": "generated sets",
    "plug-ins": "of plug-ins",
}


def _list(format_: str, plugins: list[Path] | None) -> None:
    from r2d2c.train.data.plugged import plugged_sources
    from r2d2c.train.data.sources import SOURCES

    found = (*SOURCES, *plugged_sources(plugins or (), (source.name for source in SOURCES)))
    if format_ == "json":
        print_json(
            [
                {
                    "name": s.name,
                    "family": s.family,
                    "usage": s.usage,
                    "doc": s.doc,
                    "options": dict(s.options),
                }
                for s in found
            ]
        )
        return
    for family, title in FAMILIES.items():
        sources = [source for source in found if source.family == family]
        if sources:
            print(title if family == "ready" else f"\n{title}")
            print_table(("", ""), [(f"  {s.usage.partition('[')[0]}", s.doc) for s in sources])
    for source in found:
        if source.options:
            print(f"\noptions of {source.name}, as `{source.usage.replace('[?', '?').removesuffix(']')}`")
            print_table(("", ""), [(f"  {key}", text) for key, text in source.options.items()])
    print("\n`r2d2c data SOURCE` shows what one gives.")


def _open(source: str | None, checked: Checked | None, plugins: list[Path] | None) -> Dataset:
    """The data set, with columns for the ports of the spec as its `train.columns` says."""
    from r2d2c.train.data import SOURCES, DataContext, open_data
    from r2d2c.train.data.plugged import plugged_sources
    from r2d2c.train.load import check_columns, map_columns
    from r2d2c.train.ports import data_bounds, data_ports

    context, train = DataContext(trusted=True), None
    if checked is not None:
        graph = checked.graph
        train = checked.spec.document.train
        trusted = source is not None
        if source is None:
            source = train.data if train is not None else None
        if source is None:
            raise typer.BadParameter("the spec names no data: give a SOURCE", param_hint="SOURCE")
        span = train.at("data") if train is not None and not trusted else None
        ports, bounds = data_ports(graph), data_bounds(graph)
        context = DataContext(checked.folder, trusted, span, graph.seed, ports, bounds)
    assert source is not None
    extra = plugged_sources(plugins or (), (built_in.name for built_in in SOURCES))
    if train is not None:
        check_columns(train, context.ports)
    dataset = open_data(source, context, extra)
    return dataset if train is None else map_columns(dataset, train, context.ports)


def _show(dataset: Dataset, samples: int) -> None:
    from r2d2c.train.data.describe import sample_rows

    rows = sample_rows(dataset.train, samples)
    print_table(("", *dataset.train), [[str(number), *row] for number, row in enumerate(rows)])


def _bind(dataset: Dataset, checked: Checked, quiet: bool) -> None:
    from r2d2c.diagnostics import Sink
    from r2d2c.train.data import bind
    from r2d2c.train.ports import data_bounds, data_ports, port_spans

    sink = Sink()
    graph = checked.graph
    bound = bind(dataset, data_ports(graph), sink, bounds=data_bounds(graph), spans=port_spans(checked))
    sink.stop_on_errors()
    print_diagnostics(sink.diagnostics, total=False)
    if bound is not None and not quiet:
        print(f"\nIt fits the ports of {checked.name}.")
        for note in bound.notes:
            print(f"  {note}")


def _json(dataset: Dataset, samples: int) -> dict[str, Any]:
    import numpy

    from r2d2c.train.data.describe import value_range

    table = dataset.train
    first = table.take(numpy.arange(min(samples, len(table))))
    return {
        "name": dataset.name,
        "doc": dataset.doc,
        "splits": {name: len(split) for name, split in dataset.splits.items()},
        "columns": {name: column.type_text for name, column in table.columns.items()},
        "ranges": {
            name: found
            for name, column in table.columns.items()
            if (found := value_range(column)) is not None
        },
        "classes": list(dataset.classes) if dataset.classes is not None else None,
        "notes": list(dataset.notes),
        "samples": [{name: first[name][row].tolist() for name in first} for row in range(len(first))],
    }
