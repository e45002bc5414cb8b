"""From a source to a `Spec`: the whole of the first stage."""

from __future__ import annotations

from collections.abc import Sequence

from r2d2c.diagnostics import Sink
from r2d2c.source import Source
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.override import is_credit, overriding
from r2d2c.syntax.sections import ADDED_MAPS, DOTTED_MAPS, validate
from r2d2c.syntax.spec import Spec, parse_scalar, parse_spec
from r2d2c.syntax.yaml_tree import apply_set, compose


def parse(source: Source, sink: Sink, settings: Sequence[str] = ()) -> Spec | None:
    """Text to syntax, with the settings of ``--set`` and ``--credit`` applied. Mistakes are in the sink."""
    tree = compose(source, sink)
    for setting in settings:
        if not is_credit(setting):
            tree = apply_set(tree, setting, sink, ADDED_MAPS, DOTTED_MAPS) if tree is not None else None
    document = validate(tree, sink) if tree is not None else None
    spec = parse_spec(document, sink) if document is not None else None
    if spec is not None:
        spec.override = parse_scalar(overriding(settings), parse_expression, sink)
    return spec
