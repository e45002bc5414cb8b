"""Checkpoints: tensors and state in one safetensors file, written atomically and checked when read.

Optimizer state is kept by the NAMES of parameters, so that it outlives reordering, flattening and growth.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from r2d2c.train.atomic import replacing, write_atomic
from r2d2c.train.optimizers import COUNTERS, OPTIMIZERS
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = [
    "Checkpoint",
    "Packed",
    "load_checkpoint",
    "load_tensors",
    "pack_optimizer",
    "pack_rng",
    "save_checkpoint",
    "save_tensors",
    "state_by_name",
    "unpack_optimizer",
    "unpack_rng",
    "write_atomic",
]

FORMAT = "1"
_CHECKSUM = "r2d2c.crc32"

# JSON has no name for values such as these; all we keep is str, number, bool, None, list and dict.
Json = Any


@dataclass(frozen=True, slots=True)
class Packed:
    """Tensors by name, and everything else as JSON."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on exactly: one file, so that its parts always belong together.

    ``model`` is the state dict, ``optimizers`` their packed states by a name of the caller's, ``rng`` the
    random states, ``state`` what else there is as JSON (epoch, batch, lines of metrics, schedules, best
    metric …).
    """

    model: Mapping[str, Tensor]
    optimizers: Mapping[str, Packed] = field(default_factory=dict)
    rng: Packed = field(default_factory=Packed)
    state: dict[str, Json] = field(default_factory=dict)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with a checksum over names, bytes and metadata.

    Tensors may lie on any device and share memory; each is stored whole. `OSError` comes through.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Copies, as safetensors refuses views of one buffer, and a training step must not run into the writing.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    marked = {**metadata, _CHECKSUM: _checksum(plain, metadata)}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, marked)
        except SafetensorError as error:  # the library wraps what the system says of a full disk
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(f"cannot write {path}: {error}") from error
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_tensors(path: Path, *, foreign: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and metadata of a file of `save_tensors`.

    Refuses (E520) a file that is missing, cut off or altered. A ``foreign`` safetensors file, which has no
    checksum, is read too; then only its format is checked.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # Read at once, then checked: a tensor that is still mapped could change after the check.
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        _damaged(path, f"it is cut off or no safetensors file ({error})")
    except FileNotFoundError:
        _damaged(path, "there is no such file")
    except OSError as error:
        _damaged(path, error.strerror or str(error))
    stored = metadata.pop(_CHECKSUM, None)
    if stored is None and not foreign:
        _damaged(path, "it has no checksum, so r2d2c did not write it or it was altered")
    if stored is not None and stored != _checksum(tensors, metadata):
        _damaged(path, "its checksum does not match what is in it")
    return tensors, metadata


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; `OSError` (full disk, read-only folder) comes through."""
    tensors = {f"model/{name}": tensor for name, tensor in checkpoint.model.items()}
    parts = {"rng": checkpoint.rng} | {
        f"optimizer/{key}": packed for key, packed in checkpoint.optimizers.items()
    }
    for prefix, packed in parts.items():
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in packed.tensors.items()}
    metadata = {
        "r2d2c.checkpoint": FORMAT,
        "optimizers": _dump({key: packed.scalars for key, packed in checkpoint.optimizers.items()}),
        "rng": _dump(checkpoint.rng.scalars),
        "state": _dump(checkpoint.state),
    }
    save_tensors(path, tensors, metadata)


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of `save_checkpoint`; E520 for a damaged file, or one that is no checkpoint of ours."""
    tensors, metadata = load_tensors(path)
    if metadata.get("r2d2c.checkpoint") != FORMAT:
        _damaged(path, "it is no checkpoint of this version of r2d2c")
    try:
        scalars: dict[str, dict[str, Json]] = json.loads(metadata["optimizers"])
        rng, state = json.loads(metadata["rng"]), json.loads(metadata["state"])
    except (KeyError, ValueError) as error:
        _damaged(path, f"its metadata cannot be read ({error})")
    return Checkpoint(
        model=_under("model/", tensors),
        optimizers={
            key: Packed(_under(f"optimizer/{key}/", tensors), value) for key, value in scalars.items()
        },
        rng=Packed(_under("rng/", tensors), rng),
        state=state,
    )


def state_by_name(optimizer: Optimizer, names: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The optimizer's own state of each named parameter that has any (the very tensors, not copies)."""
    return {name: dict(optimizer.state[p]) for name, p in names.items() if p in optimizer.state}


def pack_optimizer(optimizer: Optimizer, names: Mapping[str, Tensor]) -> Packed:
    """State and hyperparameters of an optimizer by parameter name; ``names`` must name all its parameters.

    State may be tensors, numbers or None. Raises `KeyError` for a parameter without a name.
    """
    by_id = {id(parameter): name for name, parameter in names.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [by_id[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return pack_state(state_by_name(optimizer, names), groups)


def pack_state(state: Mapping[str, Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]) -> Packed:
    """Pack state that is by name already; see `pack_optimizer`."""
    import torch

    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Json]] = {}
    for name, values in state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}/{key}"] = value.detach()
            else:
                scalars.setdefault(name, {})[key] = value
    plain = []
    for number, group in enumerate(groups):
        for key, value in group.items():
            if isinstance(value, torch.Tensor):  # a learning rate may be one
                tensors[f"/{number}/{key}"] = value.detach()
        plain.append({key: value for key, value in group.items() if not isinstance(value, torch.Tensor)})
    return Packed(tensors, {"groups": plain, "state": scalars, "names": sorted(state)})


def packed_state(packed: Packed) -> dict[str, dict[str, Any]]:
    """The state by name that `pack_state` packed."""
    state: dict[str, dict[str, Any]] = {name: {} for name in packed.scalars["names"]}
    for path, tensor in packed.tensors.items():
        name, _, key = path.rpartition("/")
        if name in state:
            state[name][key] = tensor
    for name, values in packed.scalars["state"].items():
        state[name].update(values)
    return state


def unpack_optimizer(optimizer: Optimizer, names: Mapping[str, Tensor], packed: Packed) -> None:
    """Give an optimizer over the same named parameters the packed state and hyperparameters, bit for bit.

    Groups are matched by their order; parameters may be new (they start without state). Refuses (E521)
    state of a parameter that the optimizer does not have, or of another shape.
    """
    state = packed_state(packed)
    check_state(
        state,
        names,
        shapes=type(optimizer).__name__ in {record.torch_class for record in OPTIMIZERS if record.shaped},
    )
    by_id = {id(parameter): name for name, parameter in names.items()}
    restore_groups(optimizer, packed)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = state.get(by_id[id(parameter)])
            if values is None:
                continue
            optimizer.state[parameter] = place_state(values, parameter, group)


def check_state(
    state: Mapping[str, Mapping[str, Any]], names: Mapping[str, Tensor], *, shapes: bool = True
) -> None:
    """Refuse (E521) state of unknown parameters, or (with ``shapes``) of another shape than theirs.

    torch's fused kernels do not look at shapes: a state too small would be read past its end.
    """
    import torch

    problems = [f"state of `{name}`, which is not there" for name in state if name not in names]
    for name in state.keys() & names.keys():
        for key, value in state[name].items():
            wanted = torch.Size([]) if key in COUNTERS else names[name].shape
            if shapes and isinstance(value, torch.Tensor) and value.shape != wanted:
                problems.append(f"`{key}` of `{name}` is {list(value.shape)}, not {list(wanted)}")
    if problems:
        refuse("E521", "the optimizer state is of another model", notes=sorted(problems)[:10])


def restore_groups(optimizer: Optimizer, packed: Packed) -> None:
    """Give the optimizer's groups their packed hyperparameters; E521 if there are not as many."""
    groups = packed.scalars["groups"]
    if len(groups) != len(optimizer.param_groups):
        there = f"{len(groups)} groups of parameters, not {len(optimizer.param_groups)}"
        refuse("E521", f"the optimizer state has {there}")
    for number, (group, stored) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        for key, value in stored.items():
            if key not in ("params", "fused", "foreach"):  # how to run is this machine's choice
                group[key] = tuple(value) if isinstance(value, list) else value
        prefix = f"/{number}/"
        for path, tensor in packed.tensors.items():
            if path.startswith(prefix):
                group[path.removeprefix(prefix)] = tensor.clone()


def place_state(state: Mapping[str, Any], parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of a parameter's state where torch keeps it: beside the parameter, the counter on the CPU.

    Fused and capturable steps have that counter beside the parameter too.
    """
    import torch

    beside = group.get("fused") or group.get("capturable")
    return {
        key: value
        if not isinstance(value, torch.Tensor)
        else value.clone()
        if key == "step" and not beside
        else value.to(parameter.device, copy=True)
        for key, value in state.items()
    }


def pack_rng() -> Packed:
    """The states of torch's (CPU and every CUDA device), Python's and NumPy's global generators."""
    import random

    import numpy
    import torch

    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors |= {f"cuda:{at}": state for at, state in enumerate(torch.cuda.get_rng_state_all())}
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = numpy.random.get_state(legacy=True)
    tensors["python"] = torch.tensor(numbers, dtype=torch.int64)
    tensors["numpy"] = torch.from_numpy(numpy.asarray(keys).astype(numpy.int64))
    return Packed(tensors, {"python": [version, gauss], "numpy": [kind, *rest]})


def unpack_rng(packed: Packed) -> None:
    """Put the generators back as `pack_rng` found them, as far as their devices are here. Refuses (E520) other states."""
    if not packed.tensors:
        return
    try:
        _set_generators(packed)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # A checkpoint may be a stranger's, and then its states may be anything.
        refuse("E520", f"cannot use this checkpoint: its random states are none ({error})")


def _set_generators(packed: Packed) -> None:
    import random

    import numpy
    import torch

    torch.set_rng_state(packed.tensors["cpu"])
    for at in range(torch.cuda.device_count()):
        if f"cuda:{at}" in packed.tensors:
            torch.cuda.set_rng_state(packed.tensors[f"cuda:{at}"], at)
    version, gauss = packed.scalars["python"]
    random.setstate((version, tuple(packed.tensors["python"].tolist()), gauss))
    kind, *rest = packed.scalars["numpy"]
    keys = packed.tensors["numpy"].numpy().astype(numpy.uint32)
    numpy.random.set_state((kind, keys, *rest))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 over everything in the file, in an order of its own (the file's varies)."""
    import torch

    total = 0
    for key in sorted(metadata):
        total = zlib.crc32(f"{key}={metadata[key]}\n".encode(), total)
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _dump(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _damaged(path: Path, reason: str) -> NoReturn:
    fix, other = None, path.with_name("best.safetensors")
    if path.name == "last.safetensors" and other.is_file():
        fix = f"go on from the best one, which may be older: cp {other} {path}"
    elif path.name == "last.safetensors" and not path.exists():
        fix = "the run was stopped before it first saved: start it anew"
    refuse("E520", f"cannot use checkpoint {path}: {reason}", fix=fix)
