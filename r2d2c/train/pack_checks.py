"""What is in an archive of a run has the types of ours, so that what reads it finds what it looks for; E620 otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from r2d2c.train.refuse import refuse

Check = Callable[[Any], bool]


def _is(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(check(item) for item in value)


def _map_of(check: Check) -> Check:
    return lambda value: type(value) is dict and all(check(item) for item in value.values())


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


NUMBER = _is(int, float)
LOCK: Mapping[str, Check] = {
    "spec_sha256": _is(str),
    "versions": _map_of(_is(str)),
    "seed": _is(int),
    "threads": _is(int),
    "device": _is(str),
}
ORIGIN: Mapping[str, Check] = {
    "spec": _is(str),
    "folder": _is(str),
    "data": _or_none(_is(str)),
    "python_data": _is(bool),
    "backend": _is(str),
    "limit_batches": _or_none(_is(int)),
    "classes": _or_none(_list_of(_is(str))),
    "shapes": _map_of(_list_of(_is(int))),
    "scaling": _or_none(_map_of(_list_of(lambda value: NUMBER(value) or _list_of(NUMBER)(value)))),
    "packed": _is(bool),
}
RECORD: Mapping[str, Check] = {
    "epoch": NUMBER,
    "split": _is(str),
    "loss": _is(int, float, str),
    "losses": _map_of(_is(int, float, str)),
    "metrics": _map_of(_is(int, float, str)),
    "ops": _map_of(_is(int)),
    "spread": _map_of(_is(int, float, str)),
    "seconds": _or_none(NUMBER),
}
STATE: Mapping[str, Check] = {
    "epoch": _is(int),
    "batch": _is(int),
    "step": _is(int),
    "epochs": _is(int),
    "lines": _is(int),
    "finished": _is(bool),
    "best": _or_none(_is(dict)),
    "growth": _is(dict),
}
MORE_STATE: Mapping[str, Check] = {
    "batches": _is(int),
    "seconds": NUMBER,
    "sums": _is(dict),
    "warned": _list_of(_is(str)),
    "widest": _map_of(_list_of(NUMBER)),
    "validated": _is(bool),
}


def check_texts(path: Path, folder: Path) -> None:
    """`lock.json`, `run.json` and every line of `metrics.jsonl`."""
    for name, checks in (("lock.json", LOCK), ("run.json", ORIGIN)):
        value = _json(path, name, (folder / name).read_bytes())
        needed = checks if name == "lock.json" else {}
        _check(path, name, value, checks, needed)
    for number, line in enumerate((folder / "metrics.jsonl").read_bytes().splitlines(), 1):
        _check(path, f"metrics.jsonl:{number}", _json(path, f"metrics.jsonl:{number}", line), RECORD, {})


def check_checkpoints(path: Path, folder: Path, names: tuple[str, ...]) -> None:
    """The checkpoints: whole (E520), and with the state of a training."""
    from r2d2c.train.checkpoint import load_checkpoint

    for name in names:
        if (folder / name).is_file():
            state = load_checkpoint(folder / name).state
            _check(path, f"the state of {name}", state, {**STATE, **MORE_STATE}, STATE)


def _json(path: Path, name: str, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        damaged(path, f"{name} is no JSON")


def _check(path: Path, name: str, value: Any, checks: Mapping[str, Check], needed: Mapping[str, Any]) -> None:
    if type(value) is not dict or any(key not in value for key in needed):
        damaged(path, f"{name} has not what a run has there")
    for key, check in checks.items():
        if key in value and not check(value[key]):
            damaged(path, f"`{key}` of {name} is not what a run has there")


def damaged(path: Path, reason: str) -> NoReturn:
    """E620."""
    refuse("E620", f"cannot open {path}: {reason}", fix="ask for it again: `r2d2c pack RUN` writes a new one")
