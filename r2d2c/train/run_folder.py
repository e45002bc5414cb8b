"""A run: one folder with the resolved spec, a lock, metrics, curves and checkpoints.

    spec.yaml                      the spec, resolved, as it was trained
    lock.json                      hash of that spec, versions, seed, threads, device
    metrics.jsonl                  one JSON object per line, in the order things happened
    curves.png  summary.txt
    events.out.tfevents.r2d2c      the same numbers for TensorBoard
    checkpoints/last.safetensors   everything to go on exactly, in one file
    checkpoints/best.safetensors   the same at the best validation metric so far

Files are written whole or not at all. What the machine refuses (full disk, read-only folder) is an `OSError`
with the path in it, and comes through.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Span
from r2d2c.train.atomic import link_atomic, named, remove_partial, write_atomic
from r2d2c.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from r2d2c.train.refuse import refuse

Which = Literal["last", "best"]
PACKAGES = ("r2d2c", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Lock:
    """What a run was started with. A resume in the same surroundings is exact."""

    spec_sha256: str
    versions: Mapping[str, str]
    seed: int
    threads: int
    device: str

    @classmethod
    def of(cls, spec: str, *, seed: int, threads: int, device: str) -> Lock:
        """The lock of a resolved spec, here and now."""
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = "unknown"
        return cls(hashlib.sha256(spec.encode()).hexdigest(), versions, seed, threads, device)

    def differences(self, other: Lock) -> list[str]:
        """What is not the same in ``other``, each as ``what: here, there``."""
        mine, theirs = (_flat(asdict(lock)) for lock in (self, other))
        keys = dict.fromkeys([*mine, *theirs])
        return [
            f"{key}: {mine.get(key)}, now {theirs.get(key)}"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An existing run. Make one with `create`, come back to it with `open`."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, spec: str, lock: Lock, span: Span | None = None) -> RunFolder:
        """A new run in a folder that does not exist or is empty; E522 otherwise.

        ``spec`` is the text of the resolved spec.
        """
        try:
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError:
            taken = True
        if taken:
            what = "is not empty" if path.is_dir() else "is a file"
            refuse(
                "E522",
                f"the run folder {path} {what}",
                span,
                fix=f"choose another with --out, or go on with this run: --resume {path}"
                if (path / "lock.json").exists()
                else "choose another with --out",
            )
        run = cls(path)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomic(path / "spec.yaml", spec.encode())
        write_atomic(path / "metrics.jsonl", b"")
        # The lock comes last: a folder that has it is a whole run.
        write_atomic(path / "lock.json", (json.dumps(asdict(lock), indent=2) + "\n").encode())
        return run

    @classmethod
    def open(cls, path: Path, span: Span | None = None) -> RunFolder:
        """An existing run, cleared of half-written files; E523 if the folder is none."""
        if path.is_file():
            fix = "give the folder that `r2d2c train` wrote, as runs/NAME-001, or an archive of `r2d2c pack`"
            refuse("E523", f"{path} is a file, and no run", span, fix=fix)
        if not path.is_dir():
            refuse("E523", f"there is no run folder {path}", span, fix=_near(path))
        lacking = [
            name for name in ("spec.yaml", "lock.json", "metrics.jsonl") if not (path / name).is_file()
        ]
        lacking += [] if (path / "checkpoints").is_dir() else ["checkpoints/"]
        if lacking:
            text = f"{path} is not a run folder: it has no {', '.join(lacking)}"
            refuse("E523", text, span, fix=_inside(path))
        for folder in (path, path / "checkpoints"):
            remove_partial(folder)
        run = cls(path)
        if hashlib.sha256(run.spec.encode()).hexdigest() != run.lock.spec_sha256:
            refuse(
                "E523",
                f"{path / 'spec.yaml'} was changed after the run was started",
                span,
                fix="start a new run with the changed spec, or put the old text back",
            )
        return run

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def spec(self) -> str:
        """The resolved spec."""
        try:
            return (self.path / "spec.yaml").read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            self._unreadable("spec.yaml", error)

    @property
    def lock(self) -> Lock:
        try:
            return Lock(**json.loads((self.path / "lock.json").read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            self._unreadable("lock.json", error)

    def check_surroundings(self, now: Lock, sink: Sink, span: Span | None = None) -> None:
        """Warn (W525) where a resume need not be exact: other versions, threads or device."""
        differences = self.lock.differences(now)
        if differences:
            sink.report("W525", span, f"{self.path} was started in other surroundings", notes=differences)

    # Metrics

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add lines to ``metrics.jsonl``, and have them on disk. NaN and infinity become texts."""
        lines = "".join(json.dumps(_jsonable(record), ensure_ascii=False) + "\n" for record in records)
        path = self.path / "metrics.jsonl"
        with named(path), path.open("ab") as stream:
            stream.write(lines.encode())
            stream.flush()
            os.fsync(stream.fileno())  # a checkpoint that counts these lines must not be older than they are

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` up to the first damaged one, with NaN and infinity as floats."""
        records: list[dict[str, Any]] = []
        for line in self._lines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(record, dict):
                break
            records.append(_restored(record))
        return records

    def keep_metrics(self, lines: int, sink: Sink | None = None) -> int:
        """Cut ``metrics.jsonl`` to its first ``lines`` lines, as a checkpoint knows them; how many are left.

        Warns (W524) if there are fewer: the run is exact all the same.
        """
        raw = self._lines()
        kept = raw[: min(lines, len(self.metrics()))]
        if len(kept) < len(raw):
            write_atomic(self.path / "metrics.jsonl", b"".join(kept))
        if len(kept) < lines and sink is not None:
            sink.report(
                "W524",
                None,
                f"{self.path / 'metrics.jsonl'} has {len(kept)} sound lines, the checkpoint knows {lines}",
            )
        return len(kept)

    def _lines(self) -> list[bytes]:
        try:
            return (self.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        except OSError as error:
            self._unreadable("metrics.jsonl", error)

    # Checkpoints

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        """Replace the last checkpoint, with ``best`` the best too; the old stays until the new is whole."""
        last = self.checkpoints / "last.safetensors"
        save_checkpoint(last, checkpoint)
        if best:
            link_atomic(last, self.checkpoints / "best.safetensors")

    def has(self, which: Which = "last") -> bool:
        """Whether the run has got as far as this checkpoint."""
        return (self.checkpoints / f"{which}.safetensors").is_file()

    def load(self, which: Which = "last") -> Checkpoint:
        """A checkpoint; E520 if it is missing or damaged."""
        return load_checkpoint(self.checkpoints / f"{which}.safetensors")

    # The rest

    def write_summary(self, text: str) -> None:
        """Replace ``summary.txt``."""
        write_atomic(self.path / "summary.txt", (text.rstrip("\n") + "\n").encode())

    def draw_curves(self) -> Path | None:
        """Draw ``curves.png`` from the metrics; None if there is nothing to draw yet."""
        from r2d2c.train.curves import draw_curves

        path = self.path / "curves.png"
        return path if draw_curves(self.metrics(), path, title=self.path.resolve().name) else None

    def remove(self) -> None:
        """Delete the whole folder. For callers that made it, and found nothing worth keeping."""
        shutil.rmtree(self.path)

    def _unreadable(self, name: str, error: Exception) -> NoReturn:
        refuse("E523", f"cannot read {self.path / name} of the run: {error}")


def _runs(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if (entry / "lock.json").is_file())
    except OSError:
        return []


def _near(path: Path) -> str | None:
    """The run beside a path that there is not whose name is most like it."""
    found = suggest(path.name, _runs(path.parent))
    return f"did you mean `{path.parent / str(found.replacement)}`?" if found is not None else None


def _inside(folder: Path) -> str | None:
    """What a folder has that is no run itself: runs, a comparison's, a sweep's or a search's."""
    for inner in (folder, folder / "trials", folder / "candidates", *sorted(folder.glob("*/"))):
        names = _runs(inner)
        if names:
            return f"there are runs in it, as `{inner / names[-1]}`"
        for other in sorted(inner.glob("*/")) if inner.name == "trials" else ():
            if _runs(other):
                return f"there are runs in it, as `{other / _runs(other)[0]}`"
    return None


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dict(value) if isinstance(value, Mapping) else {key: value}
    return flat


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
