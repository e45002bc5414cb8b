"""Which visits of a training graph go to which process, for ``--parallel tasks``. No torch.

Visits that touch a parameter (or a running statistic) that learning changes must lie in one process: then each process
computes with the same numbers as one that runs all visits, for values only go forward from one to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from r2d2c.graph import Graph


@dataclass(frozen=True, slots=True)
class Piece:
    """Visits, by their numbers, that no two processes can divide. cost: in operations."""

    visits: tuple[int, ...]
    cost: float


def find_pieces(
    changed: Sequence[frozenset[str]], needs: Sequence[frozenset[int]], costs: Sequence[float]
) -> list[Piece]:
    """Pieces in an order in which each reads only of earlier ones.

    changed: of each visit what it touches of all that learning changes. needs: the visits whose values it reads.
    """
    count = len(changed)
    root = list(range(count))

    def find(visit: int) -> int:
        while root[visit] != visit:
            visit = root[visit]
        return visit

    owner: dict[str, int] = {}
    for visit, names in enumerate(changed):
        for name in names:
            root[find(visit)] = find(owner.setdefault(name, visit))
    # Pieces that need each other become one, until none do.
    while True:
        reads: dict[int, set[int]] = {find(visit): set() for visit in range(count)}
        for visit, wanted in enumerate(needs):
            reads[find(visit)] |= {find(other) for other in wanted} - {find(visit)}
        order, circle = _sorted(reads)
        if not circle:
            break
        first, *rest = circle
        for other in rest:
            root[find(other)] = find(first)
    members: dict[int, list[int]] = {}
    for visit in range(count):
        members.setdefault(find(visit), []).append(visit)
    return [Piece(tuple(members[at]), sum(costs[visit] for visit in members[at])) for at in order]


def _sorted(reads: Mapping[int, set[int]]) -> tuple[list[int], list[int]]:
    """The keys, each after those that it reads, small ones first; or some that read each other in a circle."""
    left = {key: set(wanted) for key, wanted in reads.items()}
    order: list[int] = []
    while left:
        ready = sorted(key for key, wanted in left.items() if wanted <= set(order))
        if not ready:
            return [], _circle(left)
        order.append(ready[0])
        del left[ready[0]]
    return order, []


def _circle(left: Mapping[int, set[int]]) -> list[int]:
    path = [min(left)]
    while True:
        following = min(key for key in left[path[-1]] if key in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def divide(costs: Sequence[float], world: int) -> list[range]:
    """Consecutive pieces for every process, so that the most that one of them has is as little as can be."""
    count = len(costs)
    before = [0.0]
    for cost in costs:
        before.append(before[-1] + cost)
    # best[n][k]: the most that one of n processes has, with the first k pieces; each has at least one.
    best = [[0.0 if k == 0 else float("inf") for k in range(count + 1)]]
    cuts: list[list[int]] = []
    for n in range(1, world + 1):
        row, cut = [float("inf")] * (count + 1), [0] * (count + 1)
        for k in range(n, count + 1):
            for first in range(n - 1, k):
                most = max(best[n - 1][first], before[k] - before[first])
                if most < row[k]:
                    row[k], cut[k] = most, first
        best.append(row)
        cuts.append(cut)
    found: list[range] = []
    end = count
    for n in range(world, 0, -1):
        first = cuts[n - 1][end]
        found.append(range(first, end))
        end = first
    return found[::-1]


def refuse_few(
    graph: Graph, training: Graph, pieces: Sequence[Piece], changed: Sequence[frozenset[str]], world: int
) -> None:
    """E633, with what joins the tasks. changed: of each visit of ``training``, what it touches."""
    joined = [piece for piece in pieces if len(piece.visits) > 1]
    inside = [_tasks(training, piece, changed) for piece in pieces]
    links = [
        link
        for link in graph.links
        if link.credit.rule != "local" and any({link.source_task, link.target} <= tasks for tasks in inside)
    ]
    notes = [f"the link `{link.name}` has the credit `{link.credit.rule}`" for link in links[:3]]
    for piece in joined:
        for one, other in zip(piece.visits, piece.visits[1:], strict=False):
            both = sorted(changed[one] & changed[other])
            if both:
                names = f"`{training.visits[one].name}` and `{training.visits[other].name}`"
                notes.append(f"both {names} train `{both[0]}`")
    there = "1 part" if len(pieces) == 1 else f"{len(pieces)} parts"
    refuse(
        "E633",
        f"{world} processes cannot divide the tasks, which make {there} that learn apart",
        links[0].origin if links else None,
        label="a gradient comes back here" if links else "",
        notes=notes[:4],
        fix="let links between the tasks be `local`, without a representative that later tasks teach; or take "
        "`--parallel data`",
    )


def _tasks(graph: Graph, piece: Piece, changed: Sequence[frozenset[str]]) -> set[str]:
    """The tasks that a piece trains: whose losses it has, and whose parameters."""
    found = {task for visit in piece.visits for task in graph.visits[visit].tasks}
    return found | {name.partition(".")[0] for visit in piece.visits for name in changed[visit]}
