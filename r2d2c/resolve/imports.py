"""`imports:`: blocks from the standard library (``std/NAME``) or from files in the spec's folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Source, Span
from r2d2c.syntax.spec import BlockSyntax, Spec, parse_blocks


def load_imports(spec: Spec, folder: Path, sink: Sink) -> list[BlockSyntax]:
    """The blocks of all imports, and of theirs, each file once."""
    loader = _Loader(folder, sink)
    for name, span in spec.imports:
        loader.load(name, span, folder, ())
    return loader.blocks


def standard_names() -> list[str]:
    folder = files("r2d2c.specs").joinpath("std")
    return sorted(
        f"std/{item.name.removesuffix('.yaml')}" for item in folder.iterdir() if item.name.endswith(".yaml")
    )


class _Loader:
    def __init__(self, root: Path, sink: Sink) -> None:
        self.root, self.sink = root.resolve(), sink
        self.blocks: list[BlockSyntax] = []
        self.loaded: set[str] = set()

    def load(self, name: str, span: Span, folder: Path, active: tuple[str, ...]) -> None:
        found = self._find(name, span, folder)
        if found is None:
            return
        key, source, below = found
        if key in active:
            chain = " → ".join([*active[active.index(key) :], key])
            self.sink.report("E241", span, f"imports go in a circle: {chain}")
            return
        if key in self.loaded:
            return
        self.loaded.add(key)
        from r2d2c.syntax.sections import validate
        from r2d2c.syntax.yaml_tree import compose

        tree = compose(source, self.sink)
        document = validate(tree, self.sink, library=True) if tree is not None else None
        if document is None:
            return
        for entry in document.imports:
            self.load(entry.value, entry.span, below, (*active, key))
        self.blocks.extend(parse_blocks(document, self.sink))

    def _find(self, name: str, span: Span, folder: Path) -> tuple[str, Source, Path] | None:
        """A key for the file, its source, and the folder its own imports are relative to."""
        if name.startswith("std/"):
            if name not in standard_names():
                self.sink.report(
                    "E240", span, f"the standard library has no `{name}`", fix=suggest(name, standard_names())
                )
                return None
            text = (
                files("r2d2c.specs").joinpath("std", f"{name.removeprefix('std/')}.yaml").read_text("utf-8")
            )
            return name, Source(f"<{name}>", text), folder
        from r2d2c.syntax.yaml_tree import read_source

        path = (folder / name).resolve()
        if not path.is_relative_to(self.root):
            self.sink.report(
                "E242",
                span,
                f"`{name}` is outside the spec's folder",
                fix="an import is `std/NAME` or a file below the spec",
            )
            return None
        if not path.is_file():
            self.sink.report("E240", span, f"there is no file `{name}` to import")
            return None
        source = read_source(path, self.sink, path.relative_to(self.root).as_posix())
        return None if source is None else (path.relative_to(self.root).as_posix(), source, path.parent)
