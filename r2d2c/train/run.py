"""`Run`: a finished or interrupted training, by its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.driver import Checked
from r2d2c.train.atomic import write_atomic
from r2d2c.train.data.dataset import Scaling
from r2d2c.train.pack import opened
from r2d2c.train.run_folder import RunFolder

if TYPE_CHECKING:
    from r2d2c.model import Model

Which = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class Origin:
    """How a run was started, beside its spec: ``run.json``.

    folder: the spec's folder, seen from the run's. data: the source, if it was not the spec that named it.
    classes: of the data's `y`; of a text, its characters. shapes: of a sample of train, by port. scaling: the mean and
    the deviation by which columns of a table were scaled. packed: the run came as an archive, whose words are not
    trusted.
    """

    spec: str = ""
    folder: str = "."
    data: str | None = None
    python_data: bool = False
    backend: str = "eager"
    limit_batches: int | None = None
    classes: tuple[str, ...] | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    scaling: Scaling | None = None
    packed: bool = False

    @classmethod
    def read(cls, path: Path) -> Origin:
        """The origin of a run; the defaults where it is missing or damaged."""
        try:
            stored = json.loads((path / "run.json").read_bytes())
            known = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        except (OSError, ValueError, TypeError):
            return cls()
        if known.get("classes") is not None:
            known["classes"] = tuple(known["classes"])
        return cls(**known)

    def write(self, path: Path) -> None:
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        write_atomic(path / "run.json", (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def seen_from(folder: Path, run: Path) -> str:
    """A folder as a path relative to a run, so that both can move together."""
    try:
        return Path(os.path.relpath(folder.resolve(), run.resolve())).as_posix()
    except ValueError:  # another drive
        return "."


@dataclass(eq=False)
class Run:
    """A run folder: its spec, metrics and trained model, each read when it is asked for."""

    folder: Path
    plugins: tuple[Any, ...] = field(default=(), repr=False)

    @cached_property
    def files(self) -> RunFolder:
        return RunFolder.open(self.folder)

    @cached_property
    def origin(self) -> Origin:
        return Origin.read(self.folder)

    @cached_property
    def spec(self) -> Checked:
        """The resolved spec, checked."""
        return self.check()

    def check(self, settings: Iterable[str] = ()) -> Checked:
        """The resolved spec with some settings changed."""
        from r2d2c import driver
        from r2d2c.plugins import collect
        from r2d2c.source import Source

        found = collect(self.plugins)
        source = Source(str(self.folder / "spec.yaml"), self.files.spec)
        return driver.check_source(
            source, folder=self.folder, settings=tuple(settings), ops=found.ops, rules=found.rules
        )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: one for each epoch and split."""
        return self.files.metrics()

    @property
    def summary(self) -> str:
        """``summary.txt``; empty while the run is not finished."""
        path = self.folder / "summary.txt"
        return path.read_text("utf-8") if path.is_file() else ""

    @cached_property
    def which(self) -> Which:
        """The checkpoint to use: the best where a validation split decided which that is, else the last."""
        if self.files.has("best") and self.files.load("last").state.get("validated"):
            return "best"
        return "last"

    @cached_property
    def model(self) -> Model:
        """The trained model, on the CPU; `load` gives others."""
        return self.load()

    def load(self, which: Which | None = None, backend: str = "eager") -> Model:
        """The model of a checkpoint."""
        from r2d2c.model import Model
        from r2d2c.train.weights import load_weights

        which = which or self.which
        model = Model(self.spec, backend)
        load_weights(model, self.files.load(which).model, self.files.checkpoints / f"{which}.safetensors")
        return model

    def _repr_html_(self) -> str:
        from r2d2c.train.notebook import run_html

        return run_html(self)

    @property
    def test(self) -> Mapping[str, Any] | None:
        """The last measurement on the test split."""
        return next((record for record in reversed(self.metrics) if record.get("split") == "test"), None)


def open_run(path: str | Path, *, plugins: Iterable[Any] = ()) -> Run:
    """A run by its folder, or by an archive of `pack`. Raises `CompileError` if it is none.

    Opening one runs no code of its own.
    """
    run = Run(opened(path), tuple(plugins))
    _ = run.files
    return run


def next_folder(name: str, parent: Path = Path("runs")) -> Path:
    """A new, empty folder ``runs/NAME-001``."""
    parent.mkdir(parents=True, exist_ok=True)
    taken = [entry.name.rpartition("-")[2] for entry in parent.glob(f"{name}-*")]
    number = max((int(n) for n in taken if n.isdecimal() and len(n) < 7), default=0) + 1
    while True:
        path = parent / f"{name}-{number:03}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path
