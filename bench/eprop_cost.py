"""What a learning pass with eligibility traces costs beside backpropagation through time.

    python -m bench.eprop_cost

64 spiking neurons, 32 inputs, batch 32, one thread: processor seconds of a pass, the least of three, and what a process
takes at its peak over what it had before. Writes the table in `docs/eprop.md`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "eprop.md"
BEGIN, END = "<!-- written by `python -m bench.eprop_cost` -->", "<!-- end -->"
CREDITS, LENGTHS = ("eprop", "backprop"), (100, 1_000)
SPEC = """\
r2d2c: 1
model: cost
dims: {{H: 64, D: 32, C: 2}}
inputs:
  x: f32[B, T, D]
targets:
  y: i64[B]
loops:
  cells(x):
    over: T
    each: {{xt: x}}
    carry:
      v: {{value: "f32[B, H] = zeros", credit: {credit}}}
      z: {{value: "f32[B, H] = zeros", credit: {spikes}}}
    body: v, z = lif(v, linear(xt, H) + linear(z, H, bias=false), decay=0.97)
tasks:
  recall:
    behavior: |
      r = cells(x)
      logits = linear(mean(r.z.steps, axes=1), C)
    distance: cross_entropy(logits, y)
outputs:
  logits: recall.logits
"""


def case(credit: str, length: int) -> tuple[float, int]:
    """Seconds and bytes, in this process."""
    import torch

    import r2d2c
    from bench.memory import status

    torch.set_num_threads(1)
    text = SPEC.format(credit=credit, spikes="local" if credit == "eprop" else credit)
    model = r2d2c.compile(r2d2c.loads(text))
    model.learn(x=torch.randn(32, 5, 32), y=torch.zeros(32, dtype=torch.int64))
    x, y = torch.randn(32, length, 32), torch.randint(2, (32,))
    Path("/proc/self/clear_refs").write_text("5")
    before, times = status("VmRSS:"), []
    for _ in range(3):
        start = time.process_time()
        model.learn(x=x, y=y)
        times.append(time.process_time() - start)
    return min(times), status("VmHWM:") - before


def main() -> None:
    """Measure every case in a process of its own, and write the table."""
    if len(sys.argv) == 3:
        print(json.dumps(case(sys.argv[1], int(sys.argv[2]))))
        return
    lines = [BEGIN, "", "| steps | `eprop` | more memory | `backprop` | more memory |", "|" + " ---: |" * 5]
    for length in LENGTHS:
        cells = [f"{length:,}"]
        for credit in CREDITS:
            command = [sys.executable, "-m", "bench.eprop_cost", credit, str(length)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, bytes_ = json.loads(done.stdout)
            cells += [f"{seconds:.2f} s", f"{bytes_ / 2**20:.1f} MiB"]
        lines.append(f"| {' | '.join(cells)} |")
    text = PAGE.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(before + "\n".join([*lines, "", END]) + after, "utf-8")
    print("\n".join(lines[2:]))


if __name__ == "__main__":
    main()
