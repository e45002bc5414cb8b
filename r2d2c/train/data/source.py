"""`DataSource`, and what all sources share: arguments, options, and paths a spec may or may not name."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from r2d2c.diagnostics import suggest
from r2d2c.source import Span
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from r2d2c.train.data.dataset import Dataset, Scaling

Port = tuple[str, tuple[int | None, ...]]
"""A port's dtype (``f32``, ``i64`` …) and dims; ``None`` is a dynamic dim, the first dim is the batch."""


@dataclass(frozen=True, slots=True)
class DataContext:
    """Who asks for the data, and for what.

    ``root`` is the spec's folder. ``trusted`` is True when the words came from the command line or from
    Python: only then may a path lie outside ``root``. ``span`` is where the spec names the data. ``ports``
    and ``bounds`` (integers of a port lie in ``[0, bound)``) shape the `random` source. ``whole``: data without splits
    of its own is not split, but all of it is ``train``, in its own order (as `predict` wants a file). ``scaling``: of
    columns by name, the mean and deviation that a model was trained with (see `Dataset`).
    """

    root: Path | None = None
    trusted: bool = False
    span: Span | None = None
    seed: int = 0
    ports: Mapping[str, Port] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False
    scaling: Scaling | None = None

    def path(self, argument: str, what: str) -> Path:
        """The path that an argument names, refused (E504) if an untrusted one leaves ``root``.

        Relative paths start at ``root`` when the spec names them, at the working folder otherwise.
        """
        if not argument:
            refuse("E502", f"`{what}` needs a path after the colon, as in `{what}PATH`", self.span)
        if "\0" in argument:
            refuse("E502", f"`{what}` got a path with a NUL character in it", self.span)
        if self.trusted:
            return self.home(argument)
        if self.root is None:
            refuse("E504", f"a spec that is not in a file cannot name `{what}{argument}`", self.span)
        return self.inside(self.root / argument)

    def home(self, argument: str) -> Path:
        """A path with ``~`` as the home of a user; E503 if there is no such user."""
        try:
            return Path(argument).expanduser()
        except RuntimeError:
            refuse("E503", f"cannot read {argument}: there is no such user", self.span)

    def inside(self, path: Path) -> Path:
        """``path``, refused (E504) if with all links followed it leaves an untrusted spec's folder."""
        if self.trusted or self.root is None:
            return path
        try:
            real, root = path.resolve(), self.root.resolve()
        except (OSError, RuntimeError):  # a loop of links
            real, root = None, None
        if real is None or root is None or not real.is_relative_to(root):
            refuse(
                "E504",
                f"the spec names data outside its own folder: {path}",
                self.span,
                notes=[f"the spec's folder is {self.root}"],
                fix="name this data on the command line: --data SOURCE:PATH",
            )
        return path

    def file(self, path: Path) -> Path:
        """A regular file that may be read; E503 says why not."""
        path = self.inside(path)
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                with path.open("rb"):
                    return path
            reason = "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file"
        except OSError as error:
            reason = _reason(error, "there is no such file")
        refuse("E503", f"cannot read {path}: {reason}", self.span, fix=_neighbour(path))

    def folder(self, path: Path) -> Path:
        """A folder that may be listed; E503 says why not."""
        path = self.inside(path)
        try:
            if stat.S_ISDIR(path.stat().st_mode):
                next(path.iterdir(), None)
                return path
            reason = "it is not a folder"
        except OSError as error:
            reason = _reason(error, "there is no such folder")
        refuse("E503", f"cannot read {path}: {reason}", self.span, fix=_neighbour(path))


@dataclass(frozen=True, slots=True)
class DataSource:
    """A source of data: one record in one file.

    ``open`` gets the text after ``name:`` (empty if there is none) with its ``?key=value&…`` options, and
    raises `CompileError` with a diagnostic for any mistake in the argument or the data. ``family`` is the heading that
    `r2d2c data` lists it under.
    """

    name: str
    doc: str
    usage: str
    open: Callable[[str, DataContext], Dataset]
    options: Mapping[str, str] = field(default_factory=dict)
    family: str = "plug-ins"


def split_options(
    argument: str, known: Mapping[str, str], context: DataContext
) -> tuple[str, dict[str, str]]:
    """An argument without its ``?key=value&key=value``, and those options; E502 for an unknown key.

    Values stand for themselves, there is no percent encoding: ``+`` and spaces may be in a column's name.
    """
    main, mark, tail = argument.rpartition("?")
    if not mark:
        return argument, {}
    options: dict[str, str] = {}
    for part in filter(None, tail.split("&")):
        key, equals, value = part.partition("=")
        if not equals:
            refuse(
                "E502", f"option `{part}` of `{argument}` has no value", context.span, fix=f"write `{key}=…`"
            )
        if key not in known:
            listed = ", ".join(f"`{name}`" for name in known) or "none"
            refuse(
                "E502",
                f"unknown option `{key}` of a data source",
                context.span,
                notes=[f"its options are: {listed}"],
                fix=_did_you_mean(key, known),
            )
        if key in options:
            refuse("E502", f"option `{key}` is given twice in `{argument}`", context.span)
        options[key] = value
    return main, options


def whole_number(
    options: Mapping[str, str], key: str, default: int, context: DataContext, least: int = 1
) -> int:
    """An integer option; E502 if it is not one, or is below ``least``."""
    text = options.get(key, str(default))
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not (value >= least and len(text) < 19):
        refuse(
            "E502", f"option `{key}` must be a whole number of at least {least}, not `{text}`", context.span
        )
    return value


def fraction(
    options: Mapping[str, str], key: str, default: float, context: DataContext, *, none: bool = False
) -> float:
    """An option strictly between 0 and 1, or (with ``none``) just 0; E502 if it is not."""
    text = options.get(key, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if none and not 0.0 <= value < 1.0:
        refuse("E502", f"option `{key}` must be at least 0 and less than 1, not `{text}`", context.span)
    if not none and not 0.0 < value < 1.0:
        refuse("E502", f"option `{key}` must lie between 0 and 1, not be `{text}`", context.span)
    return value


def _did_you_mean(name: str, known: Mapping[str, str]) -> str | None:
    # The text alone: the span covers the whole source, so the name cannot replace what it marks.
    fix = suggest(name, known)
    return fix.text if fix else None


def _reason(error: OSError, missing: str) -> str:
    """Why something cannot be read, in the words of the system; ``missing``: that it is not there."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return missing
    return error.strerror or str(error)


def _neighbour(path: Path) -> str | None:
    """A name in the same folder that is near the one that is missing."""
    try:
        fix = suggest(path.name, [entry.name for entry in path.parent.iterdir()][:10_000])
    except OSError:
        return None
    return fix.text if fix and fix.replacement != path.name else None


def trusted(context: DataContext) -> DataContext:
    """The same context for a path that we ourselves chose."""
    return replace(context, trusted=True)
