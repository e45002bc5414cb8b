"""From a source to a `Spec`: the whole of the first stage."""

from __future__ import annotations

from collections.abc import Sequence

from r2d2c.diagnostics import Sink
from r2d2c.source import Source
from r2d2c.syntax.sections import validate
from r2d2c.syntax.spec import Spec, parse_spec
from r2d2c.syntax.yaml_tree import apply_set, compose


def parse(source: Source, sink: Sink, settings: Sequence[str] = ()) -> Spec | None:
    """Text to syntax, with ``--set`` settings applied. Mistakes are in the sink."""
    tree = compose(source, sink)
    for setting in settings:
        tree = apply_set(tree, setting, sink) if tree is not None else None
    document = validate(tree, sink) if tree is not None else None
    return parse_spec(document, sink) if document is not None else None
