"""Reading the text of a spec from a file."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from r2d2c.diagnostics import Sink
from r2d2c.source import Source, Span

MAX_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
# All that YAML may contain; it has no control characters besides tab and line breaks.
UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_NOTHING = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?(?:\n|\Z))*")


def read_source(path: Path, sink: Sink, shown: str | None = None) -> Source | None:
    """The text of a file under the name the user gave it, or None after a diagnostic of why not."""
    name = shown if shown is not None else str(path)
    try:
        if path.is_dir():
            sink.report("E003", None, f"`{name}` is a folder, not a spec", fix=_specs_inside(path))
            return None
        with path.open("rb") as file:
            # A device or a pipe has no size to ask for, so the limit is held while reading.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        sink.report("E001", None, f"there is no file `{name}`", fix=_similar_file(path, name))
        return None
    except (OSError, ValueError) as error:
        reason = _reason(error)
        sink.report("E002", None, f"`{name}` cannot be read: {reason}")
        return None
    if len(data) > MAX_BYTES:
        limit = MAX_BYTES // (1024 * 1024)
        sink.report("E007", None, f"`{name}` is larger than {limit} MiB, so it is no spec")
        return None
    return decode(data, name, sink)


def decode(data: bytes, name: str, sink: Sink) -> Source | None:
    """The bytes of a file as a source, or None after a diagnostic."""
    if data.startswith(b"PK\3\4"):
        fix = f"`r2d2c train --resume {name}` goes on with it" if name.endswith(".r2d2c") else None
        what = "the archive of a run" if fix else "a zip archive"
        sink.report("E006", None, f"`{name}` is {what}, not a spec", fix=fix)
        return None
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        _report_encoding(data.removeprefix(_BOM), error, name, sink)
        return None
    source = Source(name, text)
    nul = text.find("\0")
    if nul >= 0:
        sink.report("E006", Span(source, nul, nul + 1), f"`{name}` is a binary file: it has a NUL byte here")
        return None
    if _NOTHING.fullmatch(text):
        sink.report("E005", None, f"`{name}` is empty", fix="`r2d2c new` writes a spec to start from")
        return None
    return source


def _report_encoding(data: bytes, error: UnicodeDecodeError, name: str, sink: Sink) -> None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        sink.report("E004", None, f"`{name}` is in UTF-16, not UTF-8", fix="save the file as UTF-8")
        return
    # The bad bytes become U+FFFD one by one, so the place is right and the line can be shown.
    good = data[: error.start].decode("utf-8")
    source = Source(name, good + "\ufffd" + data[error.start + 1 :].decode("utf-8", "replace"))
    sink.report(
        "E004",
        Span(source, len(good), len(good) + 1),
        f"`{name}` is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
        "this byte",
        fix="save the file as UTF-8",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "the name is too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _specs_inside(folder: Path) -> str | None:
    if _is_run(folder):
        return f"it is a run: `r2d2c train --resume {folder}` goes on with it, and its spec is `{folder / 'spec.yaml'}`"
    try:
        inside = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    except OSError:
        return None
    return f"there is `{inside[0]}` in it" if inside else None


def _is_run(folder: Path) -> bool:
    return (folder / "lock.json").is_file() and (folder / "spec.yaml").is_file()


def _similar_file(path: Path, name: str) -> str | None:
    from r2d2c.diagnostics import suggest

    try:
        near = suggest(path.name, [p.name for p in path.parent.iterdir() if p.is_file() or _is_run(p)])
    except (OSError, ValueError):
        return None
    return f"did you mean `{Path(name).parent / str(near.replacement)}`?" if near else None
