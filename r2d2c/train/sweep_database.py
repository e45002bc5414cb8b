"""The database of a sweep."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from r2d2c.train import sweep_beat
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Optuna tells programs that call it: heartbeats are an experiment, and meant for its own loop."""
    with warnings.catch_warnings(action="ignore"):
        yield


def open_database(url: str, shared: bool) -> RDBStorage:
    """The database at a URL. Where it is shared, trials that do not beat any more count as left. E643 if it cannot be used."""
    from optuna.storages import RDBStorage

    # Another process may be writing: wait for it.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with quiet():
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=sweep_beat.BEAT if shared else None,
                grace_period=sweep_beat.GRACE if shared else None,
            )
    except Exception as error:  # no driver, no server, no rights: SQLAlchemy has many
        unreachable(error, shared)


@contextmanager
def reachable(shared: bool) -> Iterator[None]:
    """E643 for what a database says that is gone, full or damaged while the block runs."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        unreachable(cause, shared, "once it can be used again, the same command goes on")


def unreachable(
    error: Exception,
    shared: bool,
    fix: str = "for example --storage sqlite:////shared/sweeps.db or postgresql://user@host/sweeps",
) -> NoReturn:
    """E643, with what the driver says."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    where = "--storage names" if shared else "the sweep is in"
    refuse(
        "E643",
        f"the database that {where} cannot be used",
        notes=[first],
        fix=fix,
    )


__all__ = ["open_database", "quiet", "reachable", "unreachable"]
