"""`train.augment`: what is done to a port's samples in training, as ``{x: crop(pad=2) |> flip}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r2d2c.diagnostics import Fix, Sink, suggest
from r2d2c.driver import Checked
from r2d2c.source import Span
from r2d2c.syntax.expressions import parse_expression
from r2d2c.syntax.spec import parse_scalar
from r2d2c.syntax.yaml_nodes import YMap
from r2d2c.train.calls import Call, read_calls
from r2d2c.train.data.augment import AUGMENTATIONS, Augmentation, Augmenter, Image, image_of
from r2d2c.train.data.bind import BoundData
from r2d2c.train.data.convert import DTYPES
from r2d2c.train.data.table_split import TableSplit
from r2d2c.train.optimizers import check_arguments
from r2d2c.train.ports import data_ports

KNOWN: Mapping[str, Augmentation] = {augmentation.name: augmentation for augmentation in AUGMENTATIONS}


@dataclass(frozen=True, slots=True)
class Change:
    """One augmentation as a spec has it; ``arguments`` are all of them, ``call`` those that are written."""

    augmentation: Augmentation
    arguments: Mapping[str, Any]
    call: Call


Changes = Mapping[str, tuple[Change, ...]]
"""What is done to the samples of each port, in order."""


def read_augment(checked: Checked, sink: Sink) -> Changes:
    """The augmentations of a spec by port; E650, E651, E652, E531 and E532 for mistakes."""
    train = checked.spec.document.train
    node = train.node.get("augment") if train is not None and isinstance(train.node, YMap) else None
    if train is None or not isinstance(node, YMap):
        return {}
    ports = data_ports(checked.graph)
    found: dict[str, tuple[Change, ...]] = {}
    for key, _ in node:
        if key.value not in ports:
            _no_port(key.value, key.span, ports, sink)
        syntax = parse_scalar(train.augment[key.value], parse_expression, sink)
        calls = None if syntax is None else read_calls(syntax, "augmentation", checked.graph.dims, sink)
        changes = [_change(call, sink) for call in calls or ()]
        found[key.value] = tuple(change for change in changes if change is not None)
    return found


def _no_port(name: str, span: Span, ports: Mapping[str, object], sink: Sink) -> None:
    listed = ", ".join(f"`{port}`" for port in ports) or "none"
    message = f"`{name}` is no input or target of the spec, so there is nothing to augment"
    sink.report("E652", span, message, notes=[f"its ports are: {listed}"], fix=suggest(name, ports))


def _change(call: Call, sink: Sink) -> Change | None:
    augmentation = KNOWN.get(call.name)
    if augmentation is None:
        message = f"there is no augmentation `{call.name}`"
        notes = [f"augmentations: {', '.join(KNOWN)}"]
        sink.report("E650", call.span, message, notes=notes, fix=suggest(call.name, KNOWN))
        return None
    what = f"augmentation `{call.name}`"
    sound = check_arguments(what, call.arguments, augmentation.arguments, sink, call.spans)
    for key, (least, most) in augmentation.ranges.items() if sound else ():
        value = call.arguments.get(key, augmentation.arguments[key])
        whole = isinstance(augmentation.arguments[key], int)
        if whole and value != int(value):
            message = f"`{key}` of {what} is a whole number, not {value}"
        elif not least <= value <= most:
            limits = f"at least {least:g}" if most > 1 else f"between {least:g} and {most:g}"
            message = f"`{key}` of {what} is {limits}, not {value}"
        else:
            continue
        sound = False
        sink.report("E651", call.spans.get(key), message)
    return Change(augmentation, {**augmentation.arguments, **call.arguments}, call) if sound else None


def augmented(data: BoundData, changes: Changes, sink: Sink) -> BoundData:
    """The data with training batches that are augmented; E651 and E653 where that does not fit, W656 for a stream."""
    if not changes or data.train is None:
        return data
    first = next((change for each in changes.values() for change in each), None)
    train = data.train
    if not isinstance(train, TableSplit):
        message = f"{data.name} come as they are: `augment` changes nothing in them"
        sink.report("W656", None if first is None else first.call.span, message)
        return data
    found = {
        port: Augmenter(
            port, [(c.augmentation, c.arguments) for c in each], _fitting(train, port, each, sink)
        )
        for port, each in changes.items()
        if each and port in train.columns
    }
    return replace(data, splits={**data.splits, "train": replace(train, augment=found)})


def check_augment(data: BoundData, changes: Changes) -> None:
    """Raises `CompileError` where augmentations do not fit the data."""
    sink = Sink()
    augmented(data, changes, sink)
    sink.stop_on_errors()


def _fitting(train: TableSplit, port: str, changes: Sequence[Change], sink: Sink) -> Image | None:
    column = train.columns[port]
    sample = column.shape
    image = image_of(sample, train.image)
    for change in changes:
        name, span = change.call.name, change.call.span
        text = f"{column.dtype}[{', '.join(['B', *map(str, sample)])}]"
        if change.augmentation.floats and DTYPES[column.dtype][1] != "float":
            sink.report("E653", span, f"`{name}` is for floats, and port `{port}` is {text}")
        if change.augmentation.image and image is None:
            message = f"`{name}` is for images, and port `{port}` is {text}"
            fix = Fix(
                f"declare the port as `{column.dtype}[B, channels, height, width]`, and `flatten` it in the model"
            )
            sink.report(
                "E653", span, message, notes=["the data has no column `image` of as many values"], fix=fix
            )
            break
        if image is None:
            continue
        for key in change.augmentation.pixels:
            if change.arguments[key] > max(image[1:]):
                message = f"`{key}` of `{name}` is {change.arguments[key]}, and the images of port `{port}` are {image[1]}x{image[2]}"
                sink.report("E651", change.call.spans.get(key, span), message)
    return image
