"""Every ready spec learns on a device that is not the CPU, without any machine having one: prints what went wrong.

torch's FakeTensor keeps shapes, types and devices and computes nothing; two devices in one op are an error, as on a GPU.
torch has a place for a backend that is written in Python, which stands for the GPU here. Autograd's threads for such a
device cannot begin anew, so each spec has a process of its own, forked from this one.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import r2d2c
from r2d2c.lower import opgraph_call
from r2d2c.lower.init import Rng
from r2d2c.lower.opgraph import load
from r2d2c.opgraph import plan
from r2d2c.ops.op_graph_rows import table_of
from r2d2c.sampling import random_batch
from r2d2c.train.calls import Call
from r2d2c.train.clipping import Clip
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.stepper import Stepper

DEVICE = "elsewhere"
ADAM = next(record for record in OPTIMIZERS if record.name == "adam")


def learn(spec: str) -> None:
    """A learning pass with optimizer steps, and an inference, of a spec's model on the device."""
    model = r2d2c.compile(spec)
    batch = random_batch(model.graph, 0, {"B": 4}, torch.float32)
    tables = {name: buffer.numpy() for name, buffer in model.named_buffers()}

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)

    def planned(kind: torch.Tensor, args: torch.Tensor, inputs: int, device: torch.device) -> Any:
        names = {id(buffer): name for name, buffer in model.named_buffers()}
        return load(plan(table_of(tables[names[id(kind)]], tables[names[id(args)]], inputs)), device)

    # What is read of numbers, the table of an op graph, is read of those that there were; draws need a generator.
    opgraph_call.program_of = planned
    on_device = Rng.generator
    Rng.generator = lambda self, node, device: on_device(self, node, torch.device("cpu"))  # type: ignore[method-assign]
    torch.Tensor.exponential_ = lambda self, rate=1, generator=None: self.uniform_()  # type: ignore[method-assign]
    with FakeTensorMode(allow_non_fake_inputs=False):
        model._apply(there)
        parameters = dict(model.named_parameters())
        visits = model._training_graph.visits
        clips = {name: Clip("", "norm", 1.0) for name in list(parameters)[:1]}
        stepper = Stepper(parameters, visits, ADAM, Call("adam", {"lr": 1e-3}), clips=clips)
        given = {name: there(tensor) for name, tensor in batch.items()}
        stepper.zero_grad()
        for number, visit in enumerate(model.visits(**given)):
            assert all(loss.device.type == DEVICE for loss in visit.losses.values())
            stepper.after(number)
        with torch.no_grad():
            model(
                **{name: given[name] for name in (port.name for port in model._inference_graph.body.inputs)}
            )
        assert all(p.device.type == DEVICE for p in model.parameters())
        assert all(b.device.type == DEVICE for b in model.buffers())


def mix(_: str) -> None:
    """What must not pass."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        torch.ones(2, device=DEVICE) + torch.ones(2)


def main(out: str, specs: list[str]) -> None:
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(DEVICE)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    found = {}
    for spec, check in [("two devices", mix), *((spec, learn) for spec in specs)]:
        reader, writer = os.pipe()
        if not os.fork():
            try:
                check(spec)
                said = ""
            except BaseException:
                said = traceback.format_exc()
            os.write(writer, said[-4000:].encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            found[spec] = pipe.read()
        _, status = os.wait()
        if status:
            found[spec] += f"status {status}"
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
