"""`RegionBuilder`: collects the nodes of one region, names them by place, and makes their storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from r2d2c.graph import EMPTY, Init, Node, Port, Region, RegionKind, Storage, Value
from r2d2c.hypernets import Hypernet
from r2d2c.source import Span

if TYPE_CHECKING:
    from r2d2c.resolve.program import Program


# Attributes of torch.nn.Module, written down so that checking a spec need not import torch (a test compares them).
RESERVED = frozenset(
    [
        "add_module",
        "apply",
        "bfloat16",
        "bind",
        "buffers",
        "call_super_init",
        "children",
        "compile",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "graph",
        "graphs",
        "half",
        "ipu",
        "learn",
        "load_state_dict",
        "losses",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "set_extra_state",
        "set_submodule",
        "share_memory",
        "spec",
        "state_dict",
        "to",
        "to_empty",
        "trace",
        "train",
        "training",
        "type",
        "visits",
        "wiring",
        "xpu",
        "zero_grad",
        "T_destination",
    ]
)


class RegionBuilder:
    """A region under construction.

    place: the dotted prefix of the ids of its nodes (``encode``, ``encode.h.mlp``).
    outside: gives the result of a name that the body does not define itself, or None.
    """

    def __init__(
        self,
        program: Program,
        name: str,
        kind: RegionKind,
        place: str,
        outside: Callable[[str], Any] | None = None,
        origin: Span | None = None,
    ) -> None:
        self.program, self.name, self.kind, self.place = program, name, kind, place
        self.outside = outside or (lambda name: None)
        self.origin = origin
        self.nodes: list[Node] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.names: dict[str, Any] = {}
        self.defined: dict[str, Span] = {}
        self.layers: dict[str, str] = {}
        # The blocks whose instances this region is inside of, outermost first.
        self.active_blocks: tuple[str, ...] = ()
        # Whether all storage made here is frozen: inside of a block used with `frozen=true`.
        self.frozen = False
        # The hypernet that generates the parameters made here, and its codes by the names of their ports.
        self.generator: Hypernet | None = None
        self.codes: dict[str, Value] = {}
        # The run-time dims that ports give a size to here; None where sizes are only names.
        self.sized: frozenset[str] | None = None
        # Values that are made when somebody reads them, by name.
        self.lazy: dict[str, Callable[[], Value]] = {}
        self._constants: dict[tuple[type, Any], Value] = {}
        self._ports: dict[str, Value] = {}
        self._params: dict[str, Value] = {}

    # -- nodes
    def fresh(self, place: str) -> str:
        """A node id that is not taken, ``place`` or ``place_2``, …"""
        counts = self.program.places
        number = counts.get(place, 0) + 1
        counts[place] = number
        if number == 1:
            return place
        return (
            self.fresh(f"{place}_{number}")
            if f"{place}_{number}" in counts
            else self._take(f"{place}_{number}")
        )

    def _take(self, place: str) -> str:
        self.program.places[place] = 1
        return place

    def add(
        self,
        id_: str,
        op: str,
        inputs: tuple[Value | None, ...],
        attrs: Mapping[str, Any] = EMPTY,
        outputs: tuple[str, ...] = ("out",),
        origin: Span | None = None,
    ) -> Value:
        self.nodes.append(Node(id_, op, inputs, attrs, outputs, origin))
        return Value(id_)

    def port(self, name: str, origin: Span | None = None) -> Value:
        """The input port of this name, made when it is first asked for."""
        value = self._ports.get(name)
        if value is None:
            value = self.add(f"{self.name}/{name}", "port", (), {"name": name}, (name,), origin)
            self._ports[name] = value
            self.inputs.append(Port(name, value))
        return value

    def constant(self, number: Any, origin: Span | None = None) -> Value:
        key = (type(number), number)
        value = self._constants.get(key)
        if value is None:
            id_ = self.fresh(f"{self.name}/const")
            value = self.add(id_, "constant", (), {"value": number}, ("const",), origin)
            self._constants[key] = value
        return value

    def size(self, dim: Any, origin: Span | None = None) -> Value:
        return self.add(self.fresh(f"{self.name}/size"), "size", (), {"dim": dim}, ("size",), origin)

    def read(self, storage: str) -> Value:
        """The value of a storage entry."""
        value = self._params.get(storage)
        if value is None:
            # Not through `fresh`: one reader a region, and the id says which.
            value = self.add(f"{self.name}/%{storage}", "param", (), {"storage": storage}, (storage,))
            self._params[storage] = value
        return value

    def argument(self, name: str) -> Value:
        """The value of a number that is given when the model runs."""
        key = f"argument {name}"
        value = self._params.get(key)
        if value is None:
            value = self.add(f"{self.name}/{name}", "argument", (), {"name": name}, (name,))
            self._params[key] = value
        return value

    def make_storage(self, name: str, kind: Any, init: Init, origin: Span | None) -> Value:
        for part in name.split(".")[:-1]:
            if part in RESERVED:
                message = (
                    f"`{part}` cannot name what has parameters: it is an attribute of every torch module"
                )
                self.program.sink.report("E216", origin, message, fix="use another name")
        self.program.storage[name] = Storage(name, kind, init, self.name, origin=origin)
        if self.generator is not None and kind == "param":
            self.program.generated.add(name)
            inputs = tuple(self.code(port) for port in self.generator.ports())
            attrs = {"storage": name, "hypernet": self.generator}
            return self.add(f"{self.name}/%{name}", "generate", inputs, attrs, (name,), origin)
        return self.read(name)

    def code(self, port: str) -> Value:
        """A code of the hypernet that this region is inside of; a block has it as a port."""
        return self.codes[port] if port in self.codes else self.port(port)

    # -- names
    def own(self, name: str) -> Any:
        """What the body itself gives this name, or None."""
        if name in self.lazy:
            self.names[name] = self.lazy.pop(name)()
        return self.names.get(name)

    def lookup(self, name: str) -> Any:
        found = self.own(name)
        return found if found is not None else self.outside(name)

    def expose(self, name: str, value: Value) -> int:
        """Make a value an output port; its position."""
        for position, port in enumerate(self.outputs):
            if port.name == name:
                return position
        self.outputs.append(Port(name, value))
        return len(self.outputs) - 1

    def finish(self) -> Region:
        return Region(
            self.name, self.kind, tuple(self.inputs), tuple(self.outputs), tuple(self.nodes), self.origin
        )
