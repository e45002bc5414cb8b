"""Run by `torchrun` from test_processes.py: learns batches in shares and as a whole, and writes what differs."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import r2d2c
from r2d2c.model import Model
from r2d2c.sampling import random_batch

ROWS = 7  # 4 and 3


def differs(spec: str, rank: int) -> float:
    """The largest difference between gradients, losses and statistics by shares and of the whole batch.

    spec: its path; behind `all:`, what nothing couples is followed value by value, too.
    """
    model = Model(r2d2c.load(spec.removeprefix("all:"))).double()
    whole = copy.deepcopy(model)
    model._share_all = spec.startswith("all:")
    batch = random_batch(model.graph, 0, {"B": ROWS}, torch.float64)
    rows = slice(0, 4) if rank == 0 else slice(4, ROWS)
    worst = 0.0
    for _ in range(2):  # the second pass adds to gradients that are there
        step = model.learn(**{name: tensor[rows] for name, tensor in batch.items()})
        losses = {}
        for visit in whole.visits(**batch):
            losses.update(visit.losses)
        worst = max([worst, *(float((step.losses[name] - value).abs()) for name, value in losses.items())])
    for (name, mine), theirs in zip(
        model.state_dict(keep_vars=True).items(), whole.state_dict(keep_vars=True).values(), strict=True
    ):
        one, other = (mine.grad, theirs.grad) if mine.requires_grad else (mine, theirs)
        assert (one is None) == (other is None), name
        if one is not None and one.numel():
            scale = max(1.0, float(other.double().abs().max()))
            worst = max(worst, float((one.double() - other.double()).abs().max()) / scale)
    return worst


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out, *specs = sys.argv[1:]
    found = {spec: differs(spec, dist.get_rank()) for spec in specs}
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


main()
