"""`FormsBody`: a region while its hypernets become nodes, and the parts that generated parameters are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2d2c.credit.rewrite import Body
from r2d2c.graph import Init, Node, Region, Storage, Value
from r2d2c.hypernets import Generated, Hypernet, deviation
from r2d2c.ops.record import ShapeError
from r2d2c.passes.forms_lead import Lead
from r2d2c.types import DimLike, TensorType

if TYPE_CHECKING:
    from r2d2c.passes.forms import Forms


class FormsBody(Body):
    """A region while its hypernets become nodes; ``place`` is the name of the op at hand."""

    def __init__(self, forms: Forms, region: Region) -> None:
        super().__init__(forms.rewriter, replace(region, nodes=()), region.origin)
        self.forms, self.place = forms, ""
        self.moved: dict[Value, Value] = {}
        self._read: dict[str, Value] = {}
        self.net: Hypernet
        self.code: Value
        self.parts: Value | None = None
        self.x: TensorType

    def begin(self, generate: Node, node: Node) -> None:
        """Turn to an op: the hypernet and the codes of its parameters, and its first value."""
        codes = [value for value in generate.inputs if value is not None]
        self.net, self.code = generate.attrs["hypernet"], codes[0]
        self.parts = codes[1] if len(codes) > 1 else None

    def become(self, value: Value, node: Node) -> None:
        """Let the node that was added last, whose value it is, take the place of an op."""
        last = self.nodes.pop()
        assert value == Value(last.id), (value, last.id)
        self.nodes.append(replace(last, id=node.id, outputs=node.outputs))
        self.editor.types[Value(node.id)] = self.editor.types.pop(value)

    def codes(self, node: Node) -> None:
        """h = act(V c/√S + b)/√k, and with `chunks` one for every part; without `hidden`, h = c/√S."""
        net: Hypernet = node.attrs["hypernet"]
        assert node.inputs[0] is not None
        context = self.type(node.inputs[0])
        width = int(context.dims[-1])  # type: ignore[arg-type]
        dtype, place = context.dtype, f"{net.name}.code"
        scaled = self.node("mul", node.inputs[0], self.number(width**-0.5), name=f"{self.place}.scaled")
        if net.hidden is None:
            self.moved[node.value()] = scaled
            return
        k = net.hidden
        weight = self.made(f"{place}.weight", (k, width), Init("normal", (1.0,)), dtype, ("out", "in"))
        bias = self.made(f"{place}.bias", (k,), Init("fan_in_uniform"), dtype, ("out",), (width, k))
        hidden = self.node("linear", scaled, weight, bias, name=f"{self.place}.hidden", out=k)
        self.moved[node.value()] = self._activated(hidden, net, "")
        if net.chunks is not None:
            self.forms.splitting[net.name] = net
            parts = self.made(
                f"{net.name}.parts", (net.chunks, k), Init("normal", (1.0,)), dtype, ("part", "code")
            )
            one = self.node("unsqueeze", hidden, name=f"{self.place}.one", axis=-2)
            each = self.node("add", one, parts, name=f"{self.place}.each")
            self.moved[node.value(1)] = self._activated(each, net, ".parts")

    def _activated(self, value: Value, net: Hypernet, suffix: str) -> Value:
        if net.act != "none":
            value = self.node(net.act, value, name=f"{self.place}{suffix}.{net.act}")
        assert net.hidden is not None
        return self.node("mul", value, self.number(net.hidden**-0.5), name=f"{self.place}{suffix}.code")

    def made(
        self,
        name: str,
        dims: Sequence[DimLike],
        init: Init,
        dtype: str,
        axes: tuple[str, ...] = (),
        fans: tuple[int, int] | None = None,
    ) -> Value:
        """The value of a new row of the storage table, one reader a region."""
        found = self._read.get(name)
        if found is None:
            type_ = TensorType(dtype, tuple(int(dim) for dim in dims))  # type: ignore[arg-type]
            row = Storage(name, "param", init, self.region.name, type_, axes, self.origin, fans)
            self.forms.storage.setdefault(name, row)
            id_ = self.editor.fresh(f"{self.region.name}/%{name}")
            self.nodes.append(Node(id_, "param", (), {"storage": name}, (name,)))
            found = self._read[name] = Value(id_)
            self.editor.types[found] = type_
        return found

    # -- the parts that parameters are made of
    def note(self, row: Storage, mode: str, form: str, why: str, held: int) -> None:
        """Remember for `plan` how a parameter is generated."""
        assert row.type is not None
        lead = self.type(self.code).dims[:-1]
        count = math.prod(sizes(row))
        self.forms.generated.append(
            Generated(
                self.net.name, row.name, mode, form, why, count, held, lead, row.type.dtype, self.net.origin
            )
        )

    def constant(self, row: Storage) -> bool:
        """Whether a parameter starts with one and the same number, or pattern: then it keeps a shared part."""
        return row.init.kind == "eye" or deviation(row.init, row.fans, (*sizes(row), 1)) == 0.0

    def base(self, row: Storage) -> Value | None:
        """The shared part; None if there is none."""
        if not self.net.base and not self.constant(row):
            return None
        dims = sizes(row)
        return self.made(f"{row.name}.base", dims, row.init, dtype_of(row), row.axes, fans_of(row))

    def basis(self, row: Storage) -> Value:
        """The k tensors that a code adds up, [d0, k, …], each drawn like the parameter itself."""
        first, *rest = sizes(row)
        code = int(self.type(self.code).dims[-1])  # type: ignore[arg-type]
        axes = (*row.axes[:1], "code", *row.axes[1:]) if row.axes else ()
        return self.made(
            f"{row.name}.basis", (first, code, *rest), self._drawn(row), dtype_of(row), axes, fans_of(row)
        )

    def _drawn(self, row: Storage) -> Init:
        if self.constant(row):
            return Init("normal", (0.1 / math.sqrt(math.prod(sizes(row)[1:])),))
        independent = row.init.kind != "orthogonal"
        return row.init if independent else Init("normal", (deviation(row.init, row.fans, sizes(row)),))

    def scales(self, row: Storage) -> Value:
        """1 + A h, a factor for every output; A is small, so that it starts near the shared parameter."""
        code = int(self.type(self.code).dims[-1])  # type: ignore[arg-type]
        out = out_of(row)
        dims, axes = (out, code), ("out", "code")
        weight = self.made(f"{row.name}.scale", dims, Init("normal", (0.1,)), dtype_of(row), axes)
        a = self.node("linear", self.code, weight, name=f"{self.place}.scale", out=out)
        return self.node("add", a, self.number(1.0), name=f"{self.place}.factor")

    def vector(self, row: Storage) -> Value:
        """A parameter with one dim, [lead…, d0], its shared part included."""
        (size,) = sizes(row)
        if self.net.mode == "scale" and not row.name.endswith(".bias"):
            self.note(row, "scale", "scaled", "a factor for each number of the shared one", size)
            base = self.base(row)
            assert base is not None
            return self.node("mul", self.scales(row), base, name=f"{self.place}.scaled")
        self.note(row, "full", "vector", "a vector is made as it is", size)
        inputs: list[Any] = [self.code, self.basis(row), self.base(row)]
        last = row.name.rpartition(".")[2]
        return self.node("linear", *inputs, name=f"{self.place}.{last}", out=size)

    def tensor(self, row: Storage, form: str, why: str) -> Value:
        """A generated parameter with several dims, [lead…, *dims], without its shared part."""
        dims, lead = sizes(row), self.type(self.code).dims[:-1]
        self.note(row, "full", form, why, math.prod(dims))
        letters, inner = "abcdefgh"[: len(lead)], "opqrstuv"[: len(dims)]
        place = f"{self.place}.{row.name.rpartition('.')[2]}"
        if self.parts is not None:
            made = self._from_parts(row, dims, lead, place)
        else:
            pattern = f"{letters}k,{inner[0]}k{inner[1:]}->{letters}{inner}"
            made = self.node("einsum", self.code, self.basis(row), name=place, pattern=pattern)
        if self.net.normalise == "none":
            return made
        how = "" if self.net.normalise == "frobenius" else inner[0]
        pattern = f"{letters}{inner},{letters}{inner}->{letters}{how}"
        square = self.node("einsum", made, made, name=f"{place}.square", pattern=pattern)
        factor = self.to_length(square, row)
        for _ in range(len(dims) - len(how)):
            factor = self.node("unsqueeze", factor, name=f"{place}.factor", axis=-1)
        return self.node("mul", made, factor, name=f"{place}.normalised")

    def _from_parts(self, row: Storage, dims: tuple[int, ...], lead: Any, place: str) -> Value:
        assert self.parts is not None and self.net.chunks is not None
        self.forms.split.add(self.net.name)
        count, k = math.prod(dims), int(self.type(self.code).dims[-1])  # type: ignore[arg-type]
        each = -(-count // self.net.chunks)
        weight = self.made(
            f"{row.name}.basis", (each, k), self._drawn(row), dtype_of(row), ("number", "code"), fans_of(row)
        )
        made = self.node("linear", self.parts, weight, name=f"{place}.parts", out=each)
        flat = self.node("reshape", made, name=f"{place}.flat", sizes=(*lead, each * self.net.chunks))
        if each * self.net.chunks != count:
            items: tuple[Any, ...] = ("...", ("slice", None, count, None))
            flat = self.node("slice", flat, name=f"{place}.cut", items=items)
        return self.node("reshape", flat, name=place, sizes=(*lead, *dims))

    def to_length(self, square: Value, row: Storage) -> Value:
        """The factor that gives something of a squared length the length that the initialiser would have."""
        dims = sizes(row)
        count = math.prod(dims) if self.net.normalise == "frobenius" else math.prod(dims) // out_of(row)
        length = deviation(row.init, row.fans, dims) * math.sqrt(count) or 1.0
        kept = self.node("add", square, self.number(1e-12), name=f"{self.place}.length")
        root = self.node("rsqrt", kept, name=f"{self.place}.rsqrt")
        return self.node("mul", root, self.number(length), name=f"{self.place}.length_factor")

    def whole(self, row: Storage, lead: Lead) -> Value:
        """A parameter for every context, [lead…, *dims], its shared part included."""
        dims = sizes(row)
        if len(dims) == 1:
            return self.vector(row)
        if self.net.mode == "factors":
            message = f"`{row.name}` is no matrix that two factors could make"
            raise ShapeError(message, fix="generate it in full, or scaled: `mode: full`, `mode: scale`")
        base = self.base(row)
        if self.net.mode == "scale":
            self.note(row, "scale", "scaled", "a factor for each output of the shared one", math.prod(dims))
            assert base is not None
            factor = self.scales(row)
            for _ in dims[1:]:
                factor = self.node("unsqueeze", factor, name=f"{self.place}.factor", axis=-1)
            return self.node("mul", factor, base, name=f"{self.place}.scaled")
        made = self.tensor(row, "made", "the op takes a parameter for every sample")
        return made if base is None else self.node("add", made, base, name=f"{self.place}.sum")

    def aligned(self, value: Value, lead: Lead) -> Value:
        """[lead…, features…] with axes of 1, so that it broadcasts with a value of the op."""
        between = lead.first - lead.count if lead.kind == "sample" else 0
        for _ in range(between):
            value = self.node("unsqueeze", value, name=f"{self.place}.aligned", axis=lead.count)
        for _ in range(lead.rank - lead.first - lead.features):
            value = self.node("unsqueeze", value, name=f"{self.place}.aligned", axis=-1)
        return value


def sizes(row: Storage) -> tuple[int, ...]:
    assert row.type is not None
    return tuple(int(dim) for dim in row.type.dims)  # type: ignore[arg-type]


def dtype_of(row: Storage) -> str:
    assert row.type is not None
    return row.type.dtype


def out_axis(row: Storage) -> int:
    return row.axes.index("out") if "out" in row.axes else 0


def out_of(row: Storage) -> int:
    """How many outputs a parameter has."""
    return sizes(row)[out_axis(row)]


def fans_of(row: Storage) -> tuple[int, int] | None:
    dims = sizes(row)
    if row.fans is not None or len(dims) < 2:
        return row.fans
    receptive = math.prod(dims[2:])
    return dims[1] * receptive, dims[0] * receptive
