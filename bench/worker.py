"""``python -m bench.worker GROUP DEVICE QUICK NAMES``: one group of benchmarks, a line of JSON for each."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from bench.measure import Setting
from bench.table import BENCHMARKS


def main(group: str, device: str, quick: bool, names: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    setting = Setting(device, quick)
    for benchmark in BENCHMARKS:
        if benchmark.group != group or benchmark.name not in names:
            continue
        said: dict[str, Any] = {"name": benchmark.name}
        try:
            result = benchmark.load()(setting, **benchmark.arguments)
            said |= {"ours": result.ours, "theirs": result.theirs, "unit": result.unit}
        except Exception:
            traceback.print_exc()
        print("\n" + json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "1", json.loads(sys.argv[4]))
