"""What generated sequences share: the names of their tokens, padding."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase, digits
from typing import TYPE_CHECKING, Any

from r2d2c.train.data.dataset import Column

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILLER, QUERY = ".", "?"
LETTERS, NUMBERS = ascii_lowercase, digits
CAPITALS = ascii_uppercase


def named(count: int, letters: str, prefix: str) -> tuple[str, ...]:
    """Names of ``count`` tokens: one letter each, or a prefix and a number where the letters do not suffice."""
    return tuple(letters[:count]) if count <= len(letters) else tuple(f"{prefix}{n}" for n in range(count))


def tokens(ids: NDArray[Any], names: Sequence[str]) -> Column:
    """A column of tokens. Small ids stay small in memory; they become i64 batch by batch."""
    import numpy

    return Column(ids.astype(numpy.uint8 if len(names) <= 256 else numpy.int32), classes=tuple(names))


def read(ids: NDArray[Any], names: Sequence[str]) -> dict[str, Column]:
    """What a model reads, under both names that a port of tokens may have."""
    column = tokens(ids, names)
    return {"x": column, "tokens": column}


def shifted(ids: NDArray[Any], last: NDArray[Any] | int = 0) -> NDArray[Any]:
    """``[N, T]``: at every step the token of the next; at the end ``last``, of which there may be one each."""
    import numpy

    found = numpy.empty_like(ids)
    found[:, :-1] = ids[:, 1:]
    found[:, -1] = last
    return found


def ragged(lengths: NDArray[Any], size: int) -> dict[str, Column]:
    """``length`` i64[N] and ``mask`` bool[N, size]: the steps that are there; the others are padding."""
    import numpy

    return {
        "length": Column(lengths.astype(numpy.int64)),
        "mask": Column(numpy.arange(size) < lengths[:, None]),
    }
