"""What learning a long sequence takes: how deep the graph of autograd is, and the peak of memory, by the length T.

    python -m bench.memory_flat [--only NAME …]

The memory machine and an LSTM of `specs/memory/`, on B sequences of random characters. Each number comes from a process
of its own, as in `bench.memory`: the peak of the resident set over its value before the model is made. The depth is the
longest chain of nodes from a loss to a parameter. Writes `bench/memory_flat.json` and `bench/memory_flat.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "specs" / "memory"
RESULTS, TABLE = (ROOT / "bench" / f"memory_flat.{end}" for end in ("json", "md"))
LENGTHS = (100, 1_000, 10_000)
# B, the kinds of characters, and steps that warm a process up.
SAMPLES, KINDS, WARM = 16, 65, 70


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. chunk: how many steps are learned at once; all of them if None."""

    name: str
    spec: str
    chunk: int | None


ROWS = (
    Row("memory machine, chunks of 64", "token_machine.yaml", 64),
    Row("memory machine, the sequence at once", "token_machine.yaml", None),
    Row("LSTM, chunks of 64 (truncated)", "lstm.yaml", 64),
    Row("LSTM, full backpropagation through time", "lstm.yaml", None),
)


def depth(roots: list[Any]) -> int:
    """The most nodes on a way from a node of autograd's graph to a leaf. Takes no stack, however deep it is."""
    longest: dict[Any, int] = {}
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if node in longest:
            continue
        after = [each for each, _ in node.next_functions if each is not None]
        if done:
            longest[node] = 1 + max((longest[each] for each in after), default=0)
        else:
            stack.append((node, True))
            stack += [(each, False) for each in after if each not in longest]
    return max(longest[root] for root in roots)


@contextmanager
def watched(found: list[int]) -> Iterator[None]:
    """Notes the depth of every graph that goes backward: `r2d2c.lower.codegen` calls the engine without torch's checks."""
    from torch.autograd import Variable

    engine = Variable._execution_engine
    run: Callable[..., Any] = engine.run_backward

    class Engine:
        def run_backward(self, tensors: Any, *rest: Any, **named: Any) -> Any:
            found.append(depth([t.grad_fn for t in tensors if t.grad_fn is not None]))
            return run(tensors, *rest, **named)

    from r2d2c.lower import codegen

    codegen._ENGINE = Engine()  # type: ignore[assignment]
    try:
        yield
    finally:
        codegen._ENGINE = engine


def some_text(length: int) -> Any:
    """i64[B, length + 1]: random characters."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, KINDS, (SAMPLES, length + 1), generator=generator)


def learn(row: Row, text: Any) -> None:
    """A text, learned, with an update after every chunk."""
    import torch

    import r2d2c

    length = text.shape[1] - 1
    model = r2d2c.compile(r2d2c.load(FOLDER / row.spec, settings=(f"dims.V={KINDS}",)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given: dict[str, Any] = {}
    chunk = row.chunk or length
    for first in range(0, length, chunk):
        after = min(first + chunk, length)
        step = model.learn(x=text[:, first:after], y=text[:, first + 1 : after + 1], **given)
        given = {"state": step.state}
        optimizer.step()
        optimizer.zero_grad()


def peak(row: Row, length: int) -> dict[str, float]:
    """Of this process: the bytes that learning takes, the seconds, and then the depth of the graph."""
    import time

    import torch

    from bench.memory import status

    torch.set_num_threads(1)
    for _ in range(2):
        learn(row, some_text(WARM))
    text = some_text(length)
    Path("/proc/self/clear_refs").write_text("5")
    resident, start = status("VmRSS:"), time.process_time()
    learn(row, text)
    seconds, bytes_ = time.process_time() - start, status("VmHWM:") - resident
    found: list[int] = []

    def look() -> None:
        with watched(found):
            learn(row, text)

    # A graph that was walked is taken apart node within node: a deep one needs much of the stack.
    threading.stack_size(2**30)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return {"bytes": bytes_, "depth": max(found), "seconds": seconds}


def measured(row: Row, length: int) -> dict[str, float]:
    """The same, in a process of its own that gives memory back at once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "bench.memory_flat", "--case", row.name, str(length)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


HEAD = """\
# Learning long sequences: depth and memory

Written by `python -m bench.memory_flat`. [token_machine.yaml](../specs/memory/token_machine.yaml) and
[lstm.yaml](../specs/memory/lstm.yaml) learn {samples} sequences of T characters. *Depth* is the longest chain of nodes in
autograd's graph from a loss to a leaf; *peak* is what a learning process takes at most, in MiB, over what it has
before the model is made; the text is there already.
"""


def table(found: dict[str, Any]) -> str:
    columns = [f"{what}, T = {length:,}" for what in ("depth", "peak") for length in LENGTHS]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for row in ROWS:
        if row.name not in found:
            continue
        entry = [found[row.name][str(length)] for length in LENGTHS]
        cells = [f"{each['depth']:,.0f}" for each in entry]
        cells += [f"{each['bytes'] / 2**20:,.1f}" for each in entry]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join([HEAD.format(samples=SAMPLES), *lines, "", *remarks(found)])


def remarks(found: dict[str, Any]) -> list[str]:
    """What the numbers say."""

    def ratio(name: str, what: str) -> float:
        return float(found[name]["10000"][what] / found[name]["1000"][what])

    if any(row.name not in found for row in ROWS):
        return []
    chunks, whole, _, lstm = (row.name for row in ROWS)
    said = (
        f"From T = 1,000 to 10,000 the peak of the memory machine in chunks grows {ratio(chunks, 'bytes'):.2f} times, that of "
        f"the LSTM {ratio(lstm, 'bytes'):.1f} times, and its graph is {ratio(lstm, 'depth'):.1f} times as deep. The graph of "
        "the memory machine is as deep for every T, in chunks or at once, for no gradient goes through a carry. At once "
        f"it keeps what all its steps compute, so its peak grows {ratio(whole, 'bytes'):.1f} times. Chunks bound the LSTM "
        "too, but then no gradient goes back more than 64 characters; into what a slot of the memory machine holds it goes "
        "in one step, at any age."
    )
    return [*textwrap.wrap(said, 118), ""]


def main() -> None:
    """Measure what is missing, or the rows that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = {row.name: row for row in ROWS}
    if options.case:
        print(json.dumps(peak(rows[options.case[0]], int(options.case[1]))))
        return
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        entry = {} if options.only else dict(found.get(row.name, {}))
        for length in LENGTHS:
            if str(length) not in entry:
                entry[str(length)] = measured(row, length)
                print(row.name, length, entry[str(length)], flush=True)
        found[row.name] = entry
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    TABLE.write_text(table(found), "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
