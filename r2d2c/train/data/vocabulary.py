"""`Vocabulary`: the ids of a model of sequences as a text, and a text as ids."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from r2d2c.train.data.text_file import BYTES, UNKNOWN
from r2d2c.train.refuse import refuse

Prompt = str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What ids stand for: characters, bytes, or (``classes`` is None) nothing but themselves."""

    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, classes: Sequence[str] | None, size: int) -> Vocabulary:
        """The classes of a run's data, if they are characters or bytes, and ``size`` of them."""
        names = tuple(classes or ())
        text = len(names) == size and (names == BYTES or all(len(name) == 1 for name in names))
        return cls(names if names and text else None)

    @property
    def unknown(self) -> int | None:
        """The id of all characters that were not in the training data. It may be read, but is not to be written."""
        if self.classes is None or self.classes[-1] != UNKNOWN:
            return None
        return len(self.classes) - 1

    def encode(self, prompt: Prompt, limit: int) -> list[int]:
        """The ids of a prompt, each below ``limit``; E538 if there are none, or others."""
        if not isinstance(prompt, str):
            ids = [int(token) for token in prompt]
        elif self.classes is None:
            ids = _numbers(prompt)
        else:
            ids = list(prompt.encode()) if self.classes == BYTES else self._characters(prompt)
        outside = next((token for token in ids if not 0 <= token < limit), None)
        if outside is not None:
            refuse("E538", f"the prompt has the token {outside}, the model has 0 to {limit - 1}")
        if not ids:
            refuse(
                "E538", "the prompt is empty: there is nothing to go on with", fix='write --prompt "In the"'
            )
        return ids

    def _characters(self, prompt: str) -> list[int]:
        assert self.classes is not None
        known = {name: number for number, name in enumerate(self.classes) if number != self.unknown}
        strange = [c for c in dict.fromkeys(prompt) if c not in known]
        if strange:
            message = f"the prompt has characters that the model has never read: {shown(strange)}"
            refuse("E538", message, notes=[f"it knows {shown(known)}"])
        return [known[c] for c in prompt]

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of tokens, as it grows; of ids, numbers with spaces between."""
        if self.classes == BYTES:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for token in ids:
                yield decoder.decode(bytes([token]))
            yield decoder.decode(b"", final=True)
        elif self.classes is not None:
            yield from (self.classes[token] for token in ids)
        else:
            for number, token in enumerate(ids):
                yield f" {token}" if number else str(token)

    def text(self, ids: Iterable[int]) -> str:
        """All of it."""
        return "".join(self.pieces(ids))


def shown(names: Iterable[str], most: int = 40) -> str:
    """Names for a message; what cannot be seen as an escape."""
    listed = [f"`{n if n.isprintable() else ascii(n)[1:-1]}`" for n in names]
    return " ".join(listed[:most]) + (" …" if len(listed) > most else "")


def _numbers(prompt: str) -> list[int]:
    """Ids as a text; E538 if they are none."""
    words = prompt.replace(",", " ").split()
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)), None)
    if wrong is not None:
        refuse(
            "E538",
            f"`{wrong}` is not the number of a token",
            notes=["the run has no characters, so a prompt is ids"],
            fix='write --prompt "0 3 0"',
        )
    return [int(word) for word in words]
