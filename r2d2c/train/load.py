"""From what a caller names (a spec, a source of data) to a checked spec and data bound to its ports."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
from r2d2c.syntax.sections import Train
from r2d2c.syntax.yaml_nodes import YMap
from r2d2c.train.data import (
    SOURCES,
    BatchStream,
    BoundData,
    DataContext,
    Dataset,
    bind,
    from_batches,
    open_data,
)
from r2d2c.train.data.columns import check_ports, with_classes, with_columns
from r2d2c.train.data.dataset import Scaling
from r2d2c.train.data.plugged import plugged_sources
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
    plugins: which may bring sources of data. ``whole``: a file is not split, see `DataContext`. ``classes``,
        ``scaling``: those of the training data, if this is other data for a trained model.
    """

    what: Any = None
    folder: Path | None = None
    trusted: bool = True
    plugins: tuple[Any, ...] = ()
    whole: bool = False
    classes: tuple[str, ...] | None = None
    scaling: Scaling | None = None


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
        extra = (spec.ops.extra, spec.rules)
    else:
        path = Path(spec)
        source, folder, before = driver.read(path, str(path)), path.parent, ()
        found: Found = collect(plugins)
        extra = (found.ops, found.rules)
    return check_text(source, folder, (*before, *settings), *extra, request)


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

        table = Ops(ops)
        graph = resolve(spec, table, load_imports(spec, folder, sink), sink, rules=credit_rules(rules))
        sink.stop_on_errors()
        # Its mistakes may be no more than that a size is not known yet; they are reported below if they stay.
        graph = infer(graph, table, Sink())
        wanted = {name: places[name] for name in places if name in unsolved(graph)}
        if wanted:
            train = spec.document.train
            if train is not None:
                check_columns(train, data_ports(graph))
            span = train.at("data") if train is not None and train.data is not None else None
            dataset = _open(
                request, train.data if train else None, span, DataContext(folder, span=span), train
            )
            if isinstance(dataset, Dataset):
                solved = solve_dims(graph, dataset, wanted)
                settings = [*settings, *(f"dims.{name}={size}" for name, size in solved.items())]
    return driver.check_source(source, folder=folder, settings=settings, ops=ops, rules=rules)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Data bound to ports, by the name of its source.

    whole: the caller asked for all of it, and it has no splits of its own: ``train`` is all of it.
    """

    bound: BoundData
    name: str
    diagnostics: tuple[Diagnostic, ...] = field(default=())
    whole: bool = False

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
    train = checked.spec.document.train
    context = DataContext(
        request.folder or checked.folder,
        False,
        span,
        graph.seed,
        ports,
        bounds,
        request.whole,
        request.scaling,
    )
    if train is not None:
        check_columns(train, data_ports(graph))
    sink = Sink()
    opened = _open(request, default, span, context, train, names)
    if isinstance(opened, BatchStream):
        stream = opened.bind(ports, bounds)
        return Loaded(stream, "batches from Python", whole=request.whole and list(stream.splits) == ["train"])
    if split is not None:
        opened = opened.with_validation(split, graph.seed)
    bound = bind(opened, ports, sink, bounds=bounds, spans=port_spans(checked))
    sink.stop_on_errors()
    assert bound is not None
    whole = request.whole and list(bound.splits) == ["train"]
    return Loaded(bound, opened.name, tuple(sink.diagnostics), whole)


def check_columns(train: Train, ports: Collection[str]) -> None:
    """E591 where `train.columns` names what is none of the ports."""
    node = train.node.get("columns") if isinstance(train.node, YMap) else None
    spans = {key.value: key.span for key, _ in node} if isinstance(node, YMap) else {}
    sink = Sink()
    check_ports(train.columns, spans, ports, sink)
    sink.stop_on_errors()


def map_columns(dataset: Dataset, train: Train, ports: Collection[str] | None = None) -> Dataset:
    """The data with the columns that `train.columns` gives to ``ports`` (to all if None)."""
    sink = Sink()
    wanted = {port: names for port, names in train.columns.items() if ports is None or port in ports}
    found = with_columns(dataset, wanted, sink)
    sink.stop_on_errors()
    return found


def _open(
    request: Request,
    default: str | None,
    span: Span | None,
    context: DataContext,
    train: Train | None,
    ports: Collection[str] | None = None,
) -> Dataset | BatchStream:
    """What is asked for, or the spec's own ``default``; with columns as `train.columns` says, of ``ports`` alone."""
    opened = _open_as_it_is(request, default, span, context)
    if not isinstance(opened, Dataset):
        return opened
    if train is not None:
        opened = map_columns(opened, train, ports)
    return opened if request.classes is None else with_classes(opened, request.classes, None)


def _open_as_it_is(
    request: Request, default: str | None, span: Span | None, context: DataContext
) -> Dataset | BatchStream:
    what = request.what
    if isinstance(what, Dataset | BatchStream):
        return what
    sources = plugged_sources(request.plugins, (source.name for source in SOURCES))
    if what is None:
        if default is None:
            refuse(
                "E545",
                "nothing says which data to use",
                fix="write `data: digits` under `train:`, or give --data SOURCE",
            )
        return open_data(default, context, sources)
    if isinstance(what, str | Path):
        return open_data(str(what), replace(context, trusted=request.trusted, span=None), sources)
    splits = what if isinstance(what, Mapping) and what.keys() <= {"train", "validation", "test"} else None
    if splits:
        return from_batches(splits.get("train", ()), splits.get("validation"), splits.get("test"))
    return from_batches(what)
