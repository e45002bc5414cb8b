"""From what a caller names (a spec, a source of data) to a checked spec and data bound to its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r2d2c import driver
from r2d2c.diagnostics import Diagnostic, Sink
from r2d2c.driver import Checked
from r2d2c.ops.registry import Ops
from r2d2c.plugins import Found, collect
from r2d2c.source import Source, Span
from r2d2c.syntax.parse import parse
from r2d2c.train.data import (
    BatchStream,
    BoundData,
    DataContext,
    Dataset,
    DataSource,
    bind,
    from_batches,
    open_data,
)
from r2d2c.train.ports import data_bounds, data_ports, input_names, port_spans, solve_dims, unsolved
from r2d2c.train.refuse import refuse


@dataclass(frozen=True, slots=True)
class Request:
    """Data that somebody asks for, in whatever form.

    what: the text of a source, a `Dataset`, a `BatchStream`, or an iterable (or function) of batches; a
        mapping gives
        one for each split. None: what the spec says.
    folder: where relative paths of the spec's own data start. ``trusted``: the words did not come from the
        spec.
    """

    what: Any = None
    folder: Path | None = None
    trusted: bool = True
    sources: tuple[DataSource, ...] = ()


def data_text(request: Request) -> str | None:
    """The source by its text, if that is how it was asked for: what a run notes down."""
    return request.what if isinstance(request.what, str) else None


def check_for_training(
    spec: Checked | str | Path,
    settings: Sequence[str],
    plugins: Iterable[Any],
    request: Request,
) -> Checked:
    """A checked spec with ``settings`` applied; dims to infer get their sizes from the data. Raises
    `CompileError`.
    """
    if isinstance(spec, Checked):
        if not settings:
            return spec
        source, folder, before = spec.spec.source, spec.folder, spec.settings
        extra = (tuple(spec.ops.values()), spec.rules)
    else:
        path = Path(spec)
        source, folder, before = driver.read(path, str(path)), path.parent, ()
        found: Found = collect(plugins)
        extra = (tuple(found.ops), found.rules)
    return check_text(source, folder, (*before, *settings), extra[0], extra[1], request)


def check_text(
    source: Source, folder: Path, settings: Sequence[str], ops: Iterable[Any], rules: Any, request: Request
) -> Checked:
    """As `driver.check_source`, with the sizes of dims to infer from the data."""
    sink = Sink()
    spec = parse(source, sink, settings)
    sink.stop_on_errors()
    assert spec is not None
    places = {entry.name: entry.span for entry in spec.dims if entry.syntax == "infer"}
    if places:
        from r2d2c.credit.registry import rules as credit_rules
        from r2d2c.infer import infer
        from r2d2c.resolve.imports import load_imports
        from r2d2c.resolve.model import resolve

        table = Ops(_extra(ops))
        graph = resolve(spec, table, load_imports(spec, folder, sink), sink, rules=credit_rules(rules))
        sink.stop_on_errors()
        # Its mistakes may be no more than that a size is not known yet; they are reported below if they stay.
        graph = infer(graph, table, Sink())
        wanted = {name: places[name] for name in places if name in unsolved(graph)}
        if wanted:
            train = spec.document.train
            span = train.at("data") if train is not None and train.data is not None else None
            dataset = _open(request, train.data if train else None, span, DataContext(folder, span=span))
            if isinstance(dataset, Dataset):
                solved = solve_dims(graph, dataset, wanted)
                settings = [*settings, *(f"dims.{name}={size}" for name, size in solved.items())]
    return driver.check_source(source, folder=folder, settings=settings, ops=_extra(ops), rules=rules)


def _extra(ops: Iterable[Any]) -> tuple[Any, ...]:
    """The ops of plug-ins among all: the built-in ones are there anyhow."""
    built_in = Ops(())
    return tuple(op for op in ops if op.name not in built_in)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Data bound to ports, by the name of its source."""

    bound: BoundData
    name: str
    diagnostics: tuple[Diagnostic, ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.bound.classes


def load_data(
    checked: Checked,
    request: Request,
    *,
    default: str | None,
    span: Span | None = None,
    split: float | None = None,
    targets: bool = True,
) -> Loaded:
    """Open data and bind it to the ports of a spec, without its targets if they are not needed. Raises
    `CompileError`.

    ``default`` is the source that the spec names, at ``span``. ``split``: take this share of train for
    validation.
    """
    graph = checked.graph
    names = None if targets else input_names(graph)
    ports, bounds = data_ports(graph, names), data_bounds(graph)
    context = DataContext(request.folder or checked.folder, False, span, graph.seed, ports, bounds)
    opened = _open(request, default, span, context)
    if isinstance(opened, BatchStream):
        return Loaded(opened.bind(ports, bounds), "batches from Python")
    if split is not None:
        opened = opened.with_validation(split, graph.seed)
    sink = Sink()
    bound = bind(opened, ports, sink, bounds=bounds, spans=port_spans(checked))
    sink.stop_on_errors()
    assert bound is not None
    return Loaded(bound, opened.name, tuple(sink.diagnostics))


def _open(
    request: Request, default: str | None, span: Span | None, context: DataContext
) -> Dataset | BatchStream:
    what = request.what
    if isinstance(what, Dataset | BatchStream):
        return what
    if what is None:
        if default is None:
            refuse(
                "E545",
                "nothing says which data to use",
                fix="write `data: digits` under `train:`, or give --data SOURCE",
            )
        return open_data(default, context, request.sources)
    if isinstance(what, str | Path):
        return open_data(str(what), replace(context, trusted=request.trusted, span=None), request.sources)
    splits = what if isinstance(what, Mapping) and what.keys() <= {"train", "validation", "test"} else None
    if splits:
        return from_batches(splits.get("train", ()), splits.get("validation"), splits.get("test"))
    return from_batches(what)
