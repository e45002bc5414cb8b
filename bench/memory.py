"""The peak memory of training: parameters, gradients, optimizer and activations together.

Each case runs in a process of its own. On the CPU glibc is told to take every block of 64 KiB or more from
the system and to give it back at once (``MALLOC_MMAP_THRESHOLD_``), so the peak of the resident set
(``VmHWM``, reset once the libraries are warm) over its value before the model was made is what the tensors
and the compiled code took. On another device it is torch's own count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.measure import Result, Setting

CHANNELS, SIZE, STEPS = 16, 128, 2
RULES = {
    "direct": ("direct", "tanh"),
    "direct, recomputed": ("direct(recompute=true)", "tanh"),
    "goodness": ("goodness(split=true)", "relu"),
}


def depth(setting: Setting, shallow: int, deep: int, kind: str = "local") -> Result:
    """Convolutions with local losses, or with a credit rule, deep against shallow."""
    return Result(_peak(kind, deep, setting), _peak(kind, shallow, setting), "B")


def end_to_end(setting: Setting, layers: int) -> Result:
    """Convolutions with local losses against the same ones end to end."""
    return Result(_peak("local", layers, setting), _peak("end_to_end", layers, setting), "B")


def recomputed(setting: Setting, steps: int) -> Result:
    """A loop that recomputes its steps against one that stores them."""
    return Result(_peak("loop, recomputed", steps, setting), _peak("loop", steps, setting), "B")


def chunked(setting: Setting, short: int, long: int) -> Result:
    """A memory store over a long sequence, learned in chunks, against a short one."""
    if setting.quick:
        short, long = short // 10, long // 10
    return Result(_peak("slots", long, setting), _peak("slots", short, setting), "B")


def _peak(kind: str, layers: int, setting: Setting) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "bench.memory",
        kind,
        str(layers),
        setting.device,
        str(int(setting.quick)),
    ]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _case(kind: str, layers: int, size: int, device: str) -> None:
    """A few steps."""
    import torch

    from bench.local import end_to_end_step, training_step
    from bench.specs import HandConv, compiled, credit_conv, local_conv

    generator = torch.Generator().manual_seed(0)
    if kind.startswith("loop"):
        _loop(kind, layers, size, device)
        return
    if kind == "slots":
        _slots(layers, device)
        return
    # With a credit rule eight times the samples, of an eighth of the size: what a rule stores for every layer,
    # such as the B of `direct`, is then small beside its activations.
    wide = kind in RULES
    shape = (size * 8, CHANNELS // 2, 16, 16) if wide else (size, CHANNELS, 32, 32)
    x = torch.randn(shape, generator=generator).to(device)
    y = torch.randint(0, 10, (len(x),), generator=generator).to(device)
    if wide:
        text = credit_conv(layers, CHANNELS // 2, *RULES[kind])
        step = training_step(compiled(text, device), {"x": x, "y": y})
    elif kind == "local":
        step = training_step(compiled(local_conv(layers, CHANNELS), device), {"x": x, "y": y})
    else:
        step = end_to_end_step(HandConv(layers, CHANNELS).to(device), x, y)
    for _ in range(STEPS):
        step()


def _loop(kind: str, steps: int, size: int, device: str) -> None:
    """A few learning passes of a loop whose step has several layers."""
    from bench.loops import spec
    from bench.specs import CLASSES, batch, compiled

    width, layers = 256, 6
    x, y = batch(size * 32, width, CLASSES, device)
    model = compiled(spec(width, "recomputed" in kind, str(steps), layers), device)
    for _ in range(STEPS):
        model.learn(x=x, y=y)
        model.zero_grad()


def _slots(length: int, device: str) -> None:
    """A learning pass over a sequence of tokens in chunks of 64, as `train.chunk: 64` makes it."""
    from bench.slots import spec, tokens_of
    from bench.specs import compiled

    tokens, chunk = 32, 64
    model = compiled(spec(64, 32, tokens, "layer"), device)
    state = None
    for first in range(0, length, chunk):
        x, y = tokens_of(32, min(chunk, length - first), tokens, device)
        state = model.learn(x=x, y=y, state=state).state
        model.zero_grad()


def status(field: str) -> int:
    """A field of the process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def main(kind: str, layers: int, device: str, quick: bool) -> float:
    """The peak of one case in this process."""
    import torch

    torch.set_num_threads(1)
    size = 8 if quick else SIZE
    # What recomputes is warm when it has recomputed: its first use makes torch import more of itself.
    for warm in ("loop", kind) if kind.startswith("loop") else ("local", "end_to_end"):
        _case(warm, 2, 2, device)
    if device != "cpu":
        torch.accelerator.synchronize()
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        _case(kind, layers, size, device)
        return float(torch.accelerator.max_memory_allocated() - before)
    Path("/proc/self/clear_refs").write_text("5")
    resident = status("VmRSS:")
    _case(kind, layers, size, device)
    return float(status("VmHWM:") - resident)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")))
