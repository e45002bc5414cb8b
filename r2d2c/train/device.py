"""Where a training runs: the device that was asked for, and how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    import torch


def find_device(name: str | None) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; E543 if there is no such device here."""
    import torch

    name = name or "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        refuse("E543", f"`{name}` is no device", notes=[_present()], fix="write cpu, cuda, cuda:0 or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            built = (
                ""
                if torch.version.cuda or torch.version.hip
                else " (this build of torch is for the CPU alone)"
            )
            refuse(
                "E543",
                f"there is no device `{name}` here{built}",
                notes=[_present()],
                fix="leave --device out",
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            refuse("E543", f"there is no device `{name}` here", notes=[_present()], fix="leave --device out")
    elif device.type != "cpu":
        refuse(
            "E543",
            f"r2d2c does not train on `{name}`",
            notes=[_present()],
            fix="write cpu, cuda, cuda:0 or mps",
        )
    return device


def set_threads(count: int | None) -> int:
    """Use so many threads, or as many as torch would; how many that is."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _present() -> str:
    import torch

    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{at} ({torch.cuda.get_device_name(at)})" for at in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"devices here: {', '.join(names)}"
