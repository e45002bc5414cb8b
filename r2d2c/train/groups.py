"""Which parameters are stepped together, and after which visit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from r2d2c.graph import Visit
from r2d2c.train.clipping import Clip

GROUP = 262_144  # elements; below, the call of a step costs more than the memory it would free


@dataclass(frozen=True, slots=True)
class Kind:
    """How a parameter is stepped; those of one kind may share a step.

    factor: what the learning rate is multiplied with; with 0 the parameter is not stepped at all. optimizer: the key
    of `optimizers`, empty for that of all others. decays: whether the optimizer's weight decay is for it.
    """

    factor: float = 1.0
    optimizer: str = ""
    decays: bool = True
    clip: Clip | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are stepped after the visit of this number; ``sometimes``: if they have a gradient."""

    visit: int
    names: tuple[str, ...]
    sometimes: bool = False
    kind: Kind = Kind()

    @property
    def factor(self) -> float:
        return self.kind.factor

    @property
    def key(self) -> str:
        """Its name in a checkpoint."""
        kind = self.kind
        parts = [str(self.visit)]
        parts += ["sometimes"] if self.sometimes else []
        parts += [f"x{kind.factor!r}"] if kind.factor != 1 else []
        parts += [f"of {kind.optimizer}"] if kind.optimizer else []
        parts += [] if kind.decays else ["no decay"]
        parts += [f"clip {kind.clip.key}"] if kind.clip is not None and kind.clip.key else []
        return ".".join(parts)


def plan_groups(
    visits: Sequence[Visit],
    sizes: Mapping[str, int],
    *,
    early: bool = True,
    sometimes: Collection[str] = (),
    kinds: Mapping[str, Kind] | None = None,
) -> list[Group]:
    """Which parameters are stepped after which visit. Those that no visit finishes are not trained at all.

    sometimes: those that do not learn in every step; they make groups of their own after all others.
    kinds: of those that are not of the usual kind; each kind makes groups of its own.
    """
    kinds = kinds or {}
    usual, last = Kind(), len(visits) - 1
    ready = _ready(visits, sizes, sometimes, kinds)
    groups: list[Group] = []
    waiting: dict[Kind, list[str]] = {}
    rare: dict[Kind, list[str]] = {}
    for number, visit in enumerate(visits):
        for name in visit.finished:
            if name in sizes:
                (rare if name in sometimes else waiting).setdefault(kinds.get(name, usual), []).append(name)
        for kind, names in list(waiting.items()):
            large = early and sum(sizes[name] for name in names) >= GROUP
            if number == last or (large and number >= ready.get(kind.clip, 0)):
                groups.append(Group(number, tuple(names), kind=kind))
                del waiting[kind]
    groups = _joined(groups)
    groups += [Group(last, tuple(names), True, kind) for kind, names in rare.items()]
    return groups


def _joined(groups: Sequence[Group]) -> list[Group]:
    """Groups whose norm is clipped together are stepped together: after the last of them."""
    last = {group.kind.clip: group.visit for group in sorted(groups, key=lambda group: group.visit)}
    norms = {clip for clip in last if clip is not None and clip.kind == "norm"}
    return [
        replace(group, visit=last[group.kind.clip]) if group.kind.clip in norms else group for group in groups
    ]


def _ready(
    visits: Sequence[Visit], sizes: Mapping[str, int], sometimes: Collection[str], kinds: Mapping[str, Kind]
) -> dict[Clip | None, int]:
    """The visit after which all gradients are there whose norm is clipped together, by their clip."""
    found: dict[Clip | None, int] = {}
    for number, visit in enumerate(visits):
        for name in visit.finished:
            clip = kinds[name].clip if name in kinds and name in sizes else None
            if clip is not None and clip.kind == "norm":
                found[clip] = len(visits) - 1 if name in sometimes else max(number, found.get(clip, 0))
    return found
