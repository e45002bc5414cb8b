"""`r2d2c data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import heading, print_diagnostics, print_json, print_table
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
        _list(format_)
        return
    checked = load(spec, with_credit(settings, credit), plugins) if spec is not None else None
    dataset = _open(source, checked)
    if format_ == "json":
        print_json(_json(dataset, samples))
    else:
        print(dataset.describe())
        if samples:
            print()
            _show(dataset, samples)
    if checked is not None:
        _bind(dataset, checked, quiet=format_ == "json")


def _list(format_: str) -> None:
    from r2d2c.train.data.sources import SOURCES

    if format_ == "json":
        print_json(
            [{"name": s.name, "usage": s.usage, "doc": s.doc, "options": dict(s.options)} for s in SOURCES]
        )
        return
    heading("data sources")
    print_table(("", ""), [(source.usage.partition("[")[0], source.doc) for source in SOURCES])
    for source in SOURCES:
        if source.options:
            print(f"\noptions of {source.name}, as `{source.name}:…?key=value&key=value`")
            print_table(("", ""), [(f"  {key}", text) for key, text in source.options.items()])
    print("\n`r2d2c data SOURCE` shows what one gives.")


def _open(source: str | None, checked: Checked | None) -> Dataset:
    from r2d2c.train.data import DataContext, open_data
    from r2d2c.train.ports import data_bounds, data_ports

    context = DataContext(trusted=True)
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
    return open_data(source, context)


def _show(dataset: Dataset, samples: int) -> None:
    table = dataset.train
    count = min(samples, len(table))
    columns = list(table)
    rows = [[str(row), *(_brief(table[name][row]) for name in columns)] for row in range(count)]
    print_table(("", *columns), rows)


def _brief(value: Any, most: int = 8) -> str:
    """The first numbers of one sample."""
    import numpy

    flat = numpy.asarray(value).reshape(-1)
    texts = [f"{number:.3g}" if flat.dtype.kind == "f" else str(number) for number in flat[:most]]
    return " ".join([*texts, f"… {flat.size:,} in all"] if flat.size > most else texts)


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
    table = dataset.train
    return {
        "name": dataset.name,
        "doc": dataset.doc,
        "splits": {name: len(split) for name, split in dataset.splits.items()},
        "columns": {name: column.type_text for name, column in table.columns.items()},
        "classes": list(dataset.classes) if dataset.classes is not None else None,
        "notes": list(dataset.notes),
        "samples": [
            {name: table[name][row].tolist() for name in table} for row in range(min(samples, len(table)))
        ],
    }
