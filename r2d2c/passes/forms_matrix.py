"""The forms of ops with a weight that makes outputs of inputs: linear, bilinear, and convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r2d2c.graph import Init, Node, Storage, Value
from r2d2c.ops.record import ShapeError
from r2d2c.passes.forms_body import FormsBody, fans_of, out_axis, sizes
from r2d2c.passes.forms_lead import Lead
from r2d2c.passes.forms_rule import choose
from r2d2c.types import DimLike

if TYPE_CHECKING:
    from r2d2c.passes.forms import Forms

MATRIX = ("linear", "bilinear", "conv1d", "conv2d", "conv_transpose2d")
# What joins the channels of a factored convolution again.
_POINTWISE = {"conv1d": "conv1d", "conv2d": "conv2d", "conv_transpose2d": "conv2d"}


def matrix(forms: Forms, body: FormsBody, node: Node, rows: Mapping[str, Storage], lead: Lead) -> Value:
    """What the op gives; its weight, its bias or both are generated."""
    return _Matrix(forms, body, node, rows, lead).run()


class _Matrix:
    def __init__(
        self, forms: Forms, body: FormsBody, node: Node, rows: Mapping[str, Storage], lead: Lead
    ) -> None:
        self.forms, self.body, self.op, self.rows, self.lead = forms, body, node, rows, lead
        names = forms.signatures[node.op].names
        self.inputs = dict(zip(names, node.inputs, strict=False))
        self.values: list[Any] = [v for name, v in self.inputs.items() if name not in ("weight", "bias")]
        # A bias of every sample that the products start from, so that no pass over the numbers adds it.
        self.term: Value | None = None

    def run(self) -> Value:
        if "bias" in self.rows and self._in_one_pass:
            notes = self.forms.generated
            first = len(notes)
            self.term = self._bias()
            own = notes[first:]
            del notes[first:]
            y = self._product()
            notes += own  # the weight's stands first, as in every form
            return y
        y, bias = self._product(), self.inputs["bias"]
        if "bias" in self.rows:
            bias = self._bias()
        elif bias is not None and self._channels:
            for _ in range(self.lead.rank - 2):
                bias = self._add("unsqueeze", bias, name="aligned", axis=-1)
        return y if bias is None else self._add("add", y, bias, name="sum")

    def _bias(self) -> Value:
        return self.body.aligned(self.body.vector(self.rows["bias"]), self.lead)

    @property
    def _in_one_pass(self) -> bool:
        """Whether the products can start from the bias: of a linear of one row a sample, in factors or scaled."""
        rows, net = self.rows, self.body.net
        plain = self.op.op == "linear" and self.lead.kind == "sample" and self.lead.count == 1
        like = plain and self.body.type(self.values[0]).rank == 2 and "weight" in rows
        return like and (net.mode == "scale" or (net.mode == "factors" and net.normalise == "none"))

    @property
    def _channels(self) -> bool:
        return self.op.op in _POINTWISE

    def _add(self, op: str, *inputs: Any, name: str = "", **attrs: Any) -> Value:
        return self.body.node(op, *inputs, name=f"{self.body.place}.{name or op}", **attrs)

    def _plain(self, weight: Value, name: str, out: int | None = None) -> Value:
        """The op with some weight, without bias."""
        attrs = dict(self.op.attrs) if out is None else {**self.op.attrs, "out": out}
        return self._add(self.op.op, *self.values, weight, name=name, **attrs)

    def _with_base(self, y: Value, row: Storage) -> Value:
        base = self.body.base(row)
        return y if base is None else self._add("add", y, self._plain(base, "base"), name="with_base")

    def _product(self) -> Value:
        """What the op gives without bias."""
        row, body = self.rows.get("weight"), self.body
        if row is None:
            weight = self.inputs["weight"]
            assert weight is not None
            return self._plain(weight, "product")
        if body.net.mode == "scale":
            base = body.base(row)
            assert base is not None
            out = sizes(row)[out_axis(row)]
            body.note(row, "scale", "scaled", "the outputs of the shared weight are scaled", out)
            factor = body.aligned(body.scales(row), self.lead)
            if self.term is not None:
                product = self._plain(base, "shared")
                return self._add("multiply_add", product, factor, self.term, name="scaled_outputs")
            return self._add("mul", self._plain(base, "shared"), factor, name="scaled_outputs")
        if body.net.mode == "factors":
            return self._factors(row)
        if self.op.op == "linear" and self.lead.kind != "shared" and body.parts is None:
            x = body.type(self.values[0])
            shared = (
                x.dims[self.lead.count : -1] if self.lead.kind == "sample" else x.dims[: -1 - self.lead.count]
            )
            code = int(body.type(body.code).dims[-1])  # type: ignore[arg-type]
            form, why = choose(shared, code, self.forms.graph.ranges)
            if form == "reorder":
                return self._with_base(self._reordered(row, why), row)
            return self._with_base(self._batched(row, why), row)
        if self.op.op == "linear" and self.lead.kind != "shared":
            return self._with_base(self._batched(row, "its parts have codes of their own"), row)
        return self._made(row)

    # -- full
    def _reordered(self, row: Storage, why: str) -> Value:
        """y_o = Σ_ji T_oji h_j x_i: no matrix of a sample is ever there."""
        body, x = self.body, self.body.type(self.values[0])
        body.note(row, "full", "reorder", why, 0)
        code, basis = body.code, body.basis(row)
        spread = body.aligned(code, self.lead)
        wanted = (*x.dims[:-1], body.type(code).dims[-1])
        if body.type(spread).dims != wanted:
            spread = self._add("expand", spread, name="code", sizes=wanted)
        out = sizes(row)[0]
        y = self._add("bilinear", spread, self.values[0], basis, name="reordered", out=out)
        if body.net.normalise == "none":
            return y
        # |Σ_j h_j T_j|² = Σ_jl h_j h_l <T_j, T_l>, for the whole matrix or for each of its rows.
        if body.net.normalise == "frobenius":
            gram = self._add("einsum", basis, basis, name="gram", pattern="oji,oli->jl")
            square = self._add("dot", self._add("matmul", code, gram), code, name="square")
            factor = self._add("unsqueeze", body.to_length(square, row), name="factor", axis=-1)
        else:
            gram = self._add("einsum", basis, basis, name="gram", pattern="oji,oli->ojl")
            square = self._add("bilinear", code, code, gram, name="square", out=out)
            factor = body.to_length(square, row)
        return self._add("mul", y, body.aligned(factor, self.lead), name="normalised")

    def _batched(self, row: Storage, why: str) -> Value:
        """A matrix for every context, and one batched product."""
        body, lead = self.body, self.lead
        weight, x = body.tensor(row, "batched", why), self.values[0]
        dims, out = body.type(x).dims, sizes(row)[0]
        if lead.kind == "sample" and lead.count == 1:
            return self._add("linear", x, weight, name="batched", out=out)
        order = list(range(len(dims)))
        if lead.kind == "position":
            first = len(dims) - 1 - lead.count
            order = [*order[first:-1], *order[:first], order[-1]]
            x = self._add("permute", x, name="by_position", axes=tuple(order))
            dims = tuple(dims[axis] for axis in order)
        groups = _product(dims[: lead.count])
        flat = self._add("reshape", x, name="rows", sizes=(groups, *dims[lead.count :]))
        matrices = self._add("reshape", weight, name="matrices", sizes=(groups, *sizes(row)))
        y = self._add("linear", flat, matrices, name="batched", out=out)
        y = self._add("reshape", y, name="apart", sizes=(*dims[:-1], out))
        if lead.kind == "position":
            back = tuple(order.index(axis) for axis in range(len(order)))
            y = self._add("permute", y, name="in_order", axes=back)
        return y

    def _made(self, row: Storage) -> Value:
        """The op with a weight for every sample, or one for all."""
        body = self.body
        shared = self.lead.kind == "shared"
        if not shared and self.op.op == "conv_transpose2d":
            message = f"`{self.op.op}` takes no `weight` for every sample"
            raise ShapeError(message, fix="generate it in factors, or scaled: `rank: 8`, `mode: scale`")
        if not shared and self.lead.count > 1:
            message = f"`{self.op.op}` takes one `weight` a sample, not one for {self.lead.count} dims"
            raise ShapeError(message, fix="generate it in factors, or scaled: `rank: 8`, `mode: scale`")
        why = "one context for all" if shared else "the op takes a weight for every sample"
        made, base = body.tensor(row, "made", why), body.base(row)
        weight = made if base is None else self._add("add", made, base, name="weight_sum")
        return self._plain(weight, "product")

    # -- factors
    def _factors(self, row: Storage) -> Value:
        body, dims, axis = self.body, sizes(row), out_axis(row)
        rank, out = body.net.rank, dims[axis]
        assert rank is not None and row.type is not None
        dtype, columns = row.type.dtype, math.prod(dims) // out
        if int(self.op.attrs.get("groups", 1)) != 1:
            message = f"the kernels of `{self.op.op}` with groups have no two factors"
            raise ShapeError(message, fix="generate it in full, or scaled: `mode: full`, `mode: scale`")
        if rank >= min(out, columns):
            message = f"`rank: {rank}` is no saving: `{row.name}` is {out} by {columns}"
            places = [(body.net.origin, "this hypernet")]
            self.forms.sink.report("W333", self.op.origin, message, also=places, fix="take a smaller rank")
        body.note(row, "factors", "factors", f"{rank} numbers of a sample between two shared matrices", rank)
        code = int(body.type(body.code).dims[-1])  # type: ignore[arg-type]
        right_dims = (*dims[:axis], rank, *dims[axis + 1 :])
        right = body.made(f"{row.name}.right", right_dims, row.init, dtype, row.axes, fans_of(row))
        point = (1,) * (self.lead.rank - 2) if self._channels else ()
        drawn = Init("normal", (rank**-0.5,))
        left = body.made(f"{row.name}.left", (out, rank, *point), drawn, dtype, ("out", "rank"))
        one, fan = Init("normal", (1.0,)), Init("fan_in_uniform")
        weight = body.made(f"{row.name}.scale", (rank, code), one, dtype, ("rank", "code"))
        shift = body.made(f"{row.name}.shift", (rank,), fan, dtype, ("rank",), (code, rank))
        scale = self._add("linear", body.code, weight, shift, name="scale", out=rank)
        inner = self._plain(right, "right", rank)
        inner = self._add("mul", inner, body.aligned(scale, self.lead), name="scaled")
        if self.term is not None:
            base = body.base(row)
            start = self.term
            if base is not None:
                start = self._add("linear", self.values[0], base, start, name="with_base", out=out)
            return self._add("linear", inner, left, start, name="left", out=out)
        if self._channels:
            y = self._add(_POINTWISE[self.op.op], inner, left, name="left", out=out, kernel=1)
        else:
            y = self._add("linear", inner, left, name="left", out=out)
        if body.net.normalise != "none":
            y = self._add("mul", y, self._length(row, left, right, scale), name="normalised")
        return self._with_base(y, row)

    def _length(self, row: Storage, left: Value, right: Value, scale: Value) -> Value:
        """The factor for U diag(s) V: |U diag(s) V|² = Σ_rq s_r s_q (UᵀU)_rq (VVᵀ)_rq, or the same for each row."""
        body, rank, axis = self.body, self.body.net.rank, out_axis(row)
        out = sizes(row)[axis]
        assert rank is not None
        if axis:
            order = (axis, *(n for n in range(len(sizes(row))) if n != axis))
            right = self._add("permute", right, name="right_rows", axes=order)
        v = self._add("reshape", right, name="right_matrix", sizes=(rank, -1))
        u = self._add("reshape", left, name="left_matrix", sizes=(out, rank))
        if body.net.normalise == "frobenius":
            gram = self._add("einsum", u, u, v, v, name="gram", pattern="or,oq,ri,qi->rq")
            square = self._add("dot", self._add("matmul", scale, gram), scale, name="square")
            factor = self._add("unsqueeze", body.to_length(square, row), name="factor", axis=-1)
        else:
            inner = self._add("einsum", v, v, name="gram", pattern="ri,qi->rq")
            gram = self._add("einsum", u, u, inner, name="grams", pattern="or,oq,rq->orq")
            square = self._add("bilinear", scale, scale, gram, name="square", out=out)
            factor = body.to_length(square, row)
        return body.aligned(factor, self.lead)


def _product(dims: tuple[DimLike, ...]) -> DimLike:
    total: DimLike = 1
    for dim in dims:
        total = total * dim
    return total
