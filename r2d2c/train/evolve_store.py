"""`Store`: the candidates of a search over op graphs, in SQLite, so that it can stop anywhere and go on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2d2c.train.refuse import refuse

FILE = "evolve.db"
_WORDS = {
    "population": "size of the population",
    "epochs": "number of epochs",
    "generations": "number of generations",
}
State = Literal["waiting", "done", "diverged"]
_TABLES = """
CREATE TABLE IF NOT EXISTS search (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS candidate (
    id INTEGER PRIMARY KEY, parent INTEGER, generation INTEGER NOT NULL, seed INTEGER NOT NULL,
    state TEXT NOT NULL, metric REAL, mutations TEXT NOT NULL, ops TEXT NOT NULL, checkpoint TEXT);
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One op graph, or several, with weights. mutations: what it differs in from its parent, by op graph, as JSON has it.

    metric: the monitored value on validation data; None if there is none (yet). ops: how many each op graph has.
    checkpoint: from the search's folder; None once it fell out of the population.
    """

    id: int
    parent: int | None
    generation: int
    seed: int
    state: State = "waiting"
    metric: float | None = None
    mutations: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    ops: Mapping[str, int] = field(default_factory=dict)
    checkpoint: str | None = None

    def json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Store:
    """The database of a search in its folder, locked for others while it is open."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            # Exclusive before the journal's mode: so a second search in the folder is refused at once.
            self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            self.db.close()
            busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            what = "is in use by another search" if busy else f"cannot be used: {error}"
            refuse("E575", f"{self.path} {what}", fix="choose another folder with --out")

    def close(self) -> None:
        self.db.close()

    def claim(self, wanted: Mapping[str, Any]) -> None:
        """Note down what is searched; refuses (E575) a folder in which something else is."""
        known = {key: json.loads(value) for key, value in self.db.execute("SELECT key, value FROM search")}
        if known:
            wrong = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
            if wrong:
                # The seed is a part of the spec, so it is the more exact thing to say.
                first = next(key for key in ("seed", "spec", *wrong) if key in wrong)
                notes = [f"{key}: {known.get(key)}, now {wanted.get(key)}" for key in wrong if key != "spec"]
                refuse(
                    "E575",
                    f"the search in {self.path.parent} has another {_WORDS.get(first, first)}",
                    notes=notes,
                    fix="choose another folder with --out, or go on with what it was started with",
                )
            return
        rows = [(key, json.dumps(value)) for key, value in wanted.items()]
        self._many("INSERT INTO search VALUES (?, ?)", rows)

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Put candidates down, waiting; those that are known stay as they are."""
        rows = [(c.id, c.parent, c.generation, c.seed, c.state, "{}", "{}") for c in candidates]
        self._many(
            "INSERT OR IGNORE INTO candidate (id, parent, generation, seed, state, mutations, ops) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def write(self, found: Candidate) -> None:
        """Put down what has become of one."""
        self.db.execute(
            "UPDATE candidate SET state = ?, metric = ?, mutations = ?, ops = ?, checkpoint = ? WHERE id = ?",
            (
                found.state,
                found.metric,
                json.dumps(found.mutations),
                json.dumps(found.ops),
                found.checkpoint,
                found.id,
            ),
        )

    def forget(self, ids: Iterable[int]) -> None:
        """These have no checkpoint any more."""
        self._many("UPDATE candidate SET checkpoint = NULL WHERE id = ?", [(number,) for number in ids])

    def candidates(self) -> list[Candidate]:
        """All of them, by their numbers."""
        columns = list(Candidate.__dataclass_fields__)
        found = []
        for row in self.db.execute(f"SELECT {', '.join(columns)} FROM candidate ORDER BY id"):
            values = dict(zip(columns, row, strict=True))
            values |= {key: json.loads(values[key]) for key in ("mutations", "ops")}
            found.append(Candidate(**values))
        return found

    def _many(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany(text, rows)
        self.db.execute("COMMIT")


def ranked(candidates: Iterable[Candidate], better: str) -> list[Candidate]:
    """Those that were measured, the best first; of equal ones the older. better: `higher` or `lower`."""
    sign = -1.0 if better == "higher" else 1.0
    measured = [(c.metric * sign, c.id, c) for c in candidates if c.state == "done" and c.metric is not None]
    return [found for _, _, found in sorted(measured, key=lambda item: item[:2])]
