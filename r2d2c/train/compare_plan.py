"""What a comparison is to do: its competitors, whether each can stand on the spec, and `compare.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from r2d2c import driver
from r2d2c.credit.registry import rules
from r2d2c.diagnostics import CompileError, Diagnostic, Sink
from r2d2c.driver import Checked
from r2d2c.passes.credit import active_losses
from r2d2c.passes.pipeline import PREPARE, run_passes
from r2d2c.plan_sizes import elements
from r2d2c.plugins import collect
from r2d2c.source import Source, Span
from r2d2c.syntax.override import OPTION, with_credit
from r2d2c.train.atomic import write_atomic
from r2d2c.train.load import Request, check_for_training
from r2d2c.train.refuse import refuse
from r2d2c.train.settings import Settings, read_settings

SPEC = "spec"
"""The competitor with the credits that the spec itself says."""
FILE = "compare.json"
_OPEN, _CLOSE = "([{", ")]}"


def split_credits(credits: str | Sequence[str]) -> list[str]:
    """The rules of a list: ``"direct,target(step=0.3, noise=0.1)"`` are two. Raises `CompileError` (E412)."""
    text = credits if isinstance(credits, str) else ",".join(credits)
    source = Source(OPTION, text)
    found: list[str] = []
    depth, start, quote = 0, 0, ""
    for at, letter in enumerate([*text, ","]):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in _OPEN) - (letter in _CLOSE)
        # The last comma is ours: what is left open before it is for the parser to point out.
        if at == len(text) or (letter == "," and depth <= 0 and not quote):
            rule = text[start:at].strip()
            if not rule:
                example = f"for example {OPTION} backprop,direct,{SPEC}"
                where = Span(source, min(start, max(len(text) - 1, 0)), max(at, start))
                refuse("E412", "the rules to compare are names with commas between", where, fix=example)
            found.append(rule)
            start = at + 1
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Competitor:
    """label: the rule as it was written. folder: where its runs are. credit: None is what the spec says."""

    label: str
    folder: str
    credit: str | None

    @classmethod
    def of(cls, label: str, taken: Iterable[str] = ()) -> Competitor:
        name = re.sub(r"[^A-Za-z0-9.]+", "_", label).strip("_.")[:48].rstrip("_.") or "rule"
        number, folder = 2, name
        while folder.lower() in {other.lower() for other in taken}:
            folder, number = f"{name}-{number}", number + 1
        return cls(label, folder, None if label == SPEC else label)


def competitors(credits: Sequence[str]) -> tuple[Competitor, ...]:
    found: list[Competitor] = []
    for label in credits:
        found.append(Competitor.of(label, [other.folder for other in found]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Plan:
    """``compare.json``. folder: the spec's, seen from the comparison's. What else the spec says is in ``spec.yaml``."""

    competitors: tuple[Competitor, ...]
    seeds: tuple[int, ...]
    spec: str = ""
    folder: str = "."
    data: str | None = None
    python_data: bool = False
    backend: str = "eager"
    device: str | None = None
    threads: int | None = None
    limit_batches: int | None = None
    angles: bool = True

    def write(self, path: Path, spec: str) -> None:
        write_atomic(path / "spec.yaml", spec.encode())
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_atomic(path / FILE, f"{text}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan of a comparison's folder; E523 if it is none."""
        if not (path / FILE).is_file() or not (path / "spec.yaml").is_file():
            refuse("E523", f"{path} is no folder of a comparison", fix="`r2d2c compare SPEC` makes one")
        try:
            stored = json.loads((path / FILE).read_bytes())
            stored["competitors"] = tuple(Competitor(**entry) for entry in stored["competitors"])
            return cls(**stored | {"seeds": tuple(int(seed) for seed in stored["seeds"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            refuse("E523", f"cannot read {path / FILE} of the comparison: {error}")

    def check(self, path: Path, settings: Sequence[str], plugins: Iterable[Any]) -> Checked:
        """The spec as the comparison was started with."""
        found = collect(plugins)
        try:
            source = Source(str(path / "spec.yaml"), (path / "spec.yaml").read_text("utf-8"))
        except (OSError, ValueError) as error:
            refuse("E523", f"cannot read {path / 'spec.yaml'} of the comparison: {error}")
        folder = (path / self.folder).resolve()
        return driver.check_source(source, folder=folder, settings=settings, ops=found.ops, rules=found.rules)


Errors = Mapping[str, Sequence[Diagnostic]]


def under(
    check: Callable[[list[str]], Checked], wanted: Iterable[Competitor]
) -> tuple[dict[str, Checked], dict[str, tuple[Diagnostic, ...]]]:
    """The spec under every competitor's rule, and of those that cannot apply why."""
    found, errors = {}, {}
    for competitor in wanted:
        try:
            checked = check(list(with_credit((), competitor.credit)))
            settings_of(checked)
            found[competitor.label] = checked
        except CompileError as error:
            errors[competitor.label] = error.diagnostics
    return found, errors


def refused(errors: Errors, found: Mapping[str, Checked], skip: bool) -> None:
    """Raise `CompileError` if there are errors, unless the others are to go on without."""
    if errors and not (skip and found):
        raise CompileError(named(errors, everything=not found))


def named(errors: Errors, everything: bool = False) -> list[Diagnostic]:
    """The diagnostics of rules that cannot apply, each with the rule in a note.

    everything: no rule can apply. What all of them then have in common is a mistake of the spec itself.
    """
    diagnostics: list[Diagnostic] = []
    told = [[str(diagnostic) for diagnostic in mine] for mine in errors.values()]
    common = (
        {text for text in told[0] if all(text in other for other in told)} if everything and told else set()
    )
    for label, mine in errors.items():
        for diagnostic in mine:
            if str(diagnostic) not in common:
                note = f"so `{label}` cannot be compared here"
                diagnostics.append(replace(diagnostic, notes=(*diagnostic.notes, note)))
            elif label == next(iter(errors)):
                diagnostics.append(diagnostic)
    return diagnostics


def settings_of(checked: Checked) -> Settings:
    """How it would be trained. Raises `CompileError`."""
    sink = Sink()
    found = read_settings(checked, sink)
    sink.stop_on_errors()
    assert found is not None
    return found


def check_seeds(
    checked: Checked, seeds: Iterable[int], plugins: tuple[Any, ...] = (), request: Request | None = None
) -> None:
    """Check a spec with every seed, as its trainings will be. Raises `CompileError`, with the seed in a note.

    What is drawn may be impossible with one seed and not with another: points that are too far apart to be wired.
    """
    if not checked.spec.places:
        return
    for seed in seeds:
        try:
            check_for_training(checked, [f"train.seed={seed}"], plugins, request or Request())
        except CompileError as error:
            note = f"so it cannot be trained with the seed {seed}"
            raise CompileError([replace(d, notes=(*d.notes, note)) for d in error.diagnostics]) from None


def shared_losses(specs: Iterable[Checked]) -> dict[str, float]:
    """The weights of the losses that all have: those of the tasks, not those that rules add."""
    sets = [
        {name: loss.weight for name, loss in active_losses(spec.graph, rules(spec.rules)).items()}
        for spec in specs
    ]
    return {name: weight for name, weight in sets[0].items() if all(name in other for other in sets[1:])}


def sizes(checked: Checked, base: Checked) -> tuple[int, int]:
    """How many numbers a spec's rules add to what ``base`` stores, and how many of them are trained."""
    mine, theirs = (
        run_passes(PREPARE, spec.graph, spec.ops, rules(spec.rules)).storage for spec in (checked, base)
    )
    counts = [(elements(row.type), row.kind) for name, row in mine.items() if name not in theirs]
    return sum(n for n, _ in counts), sum(n for n, kind in counts if kind == "param")


__all__ = [
    "Competitor",
    "Plan",
    "check_seeds",
    "competitors",
    "named",
    "refused",
    "settings_of",
    "split_credits",
    "under",
]
