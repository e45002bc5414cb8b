"""Op graphs in the file that `compile --emit python` writes: their table, and a plain function that computes it.

The function takes an op at a time, so that it can be read, and is slower than the engine by as much.
"""

from __future__ import annotations

import ast
import copy
import textwrap
from collections.abc import Iterable

import torch.fx as fx

from r2d2c.graph import Storage
from r2d2c.lower.init import initial
from r2d2c.opgraph import FREE, NUMBER
from r2d2c.opkind_formulas import LETTERS, value_tree
from r2d2c.opkinds import OpKind, number_of
from r2d2c.ops.op_graph import EPS, MOMENTUM

ENGINE = "r2d2c.lower.opgraph_call"
# What the rows of each buffer have that no op is in.
_REST = {"kind": FREE, "args": NUMBER, "number": FREE}

_HELPER = '''
# What the ops of op graphs compute, by their kinds.
OPS = {
{ops}
}


def padded(rows, shape, rest, dtype=torch.float32):
    """A table that begins with these rows; the others have ``rest`` everywhere."""
    table = torch.full(shape, rest, dtype=dtype)
    if rows:
        table[: len(rows)] = torch.tensor(rows, dtype=dtype)
    return table


def op_graph(x, numbers, kind, args, mean=None, variance=None, learning=False):
    """The columns of x, then the value of every op of a table, or 0 where a row has none.

    An argument is a column, or a number of the op's own (-1). With statistics, values are normalised before others
    read them: over the batch while learning, which gives the new statistics too.
    """
    columns = dict(enumerate(x.unbind(-1)))
    inputs, kinds, reads = x.shape[-1], kind.tolist(), args.tolist()
    means, variances = (None, None) if mean is None else (mean.clone(), variance.clone())
    waiting = [row for row, op in enumerate(kinds) if op >= 0]
    while waiting:
        row = waiting.pop(0)
        op = OPS[kinds[row]]
        places = reads[row][: op.__code__.co_argcount]
        if any(place >= 0 and place not in columns for place in places):
            waiting.append(row)
            continue
        given = [columns[p] if p >= 0 else numbers[row, k].expand_as(x[..., 0]) for k, p in enumerate(places)]
        value = op(*given)
        if mean is not None:
            centre, spread = mean[row], variance[row]
            if learning:
                centre, spread = value.mean(), value.var(correction=0)
                count = value.numel()
                unbiased = spread.detach() * (count / max(count - 1, 1))
                means[row] = torch.lerp(mean[row], centre.detach(), {momentum})
                variances[row] = torch.lerp(variance[row], unbiased, {momentum})
            value = (value - centre) * torch.rsqrt(spread + {eps})
        columns[inputs + row] = value
    nothing = torch.zeros_like(x[..., 0])
    found = torch.stack([columns.get(place, nothing) for place in range(inputs + len(kinds))], -1)
    return (found, means, variances) if learning else found


def op_graph_layer(x, numbers, kind, args):
    """The same, normalised over all ops that there are, sample by sample; others read them as they are."""
    found = op_graph(x, numbers, kind, args)
    live = (kind >= 0).nonzero().flatten() + x.shape[-1]
    if not len(live):
        return found
    values = torch.nn.functional.layer_norm(found.index_select(-1, live), (len(live),), eps={eps})
    return found.index_copy(-1, live, values)


def op_graph_normalised(x, numbers, kind, args, mean, variance):
    """The same by the running statistics."""
    return op_graph(x, numbers, kind, args, mean, variance)


def op_graph_learning(x, numbers, kind, args, mean, variance):
    """The same over the batch, and the new running statistics."""
    return op_graph(x, numbers, kind, args, mean, variance, learning=True)
'''


def helpers(graphs: Iterable[fx.Graph], kinds: Iterable[OpKind]) -> list[str]:
    """The functions that the file needs, if it has an op graph. kinds: those that its ops may be of."""
    if not any(getattr(n.target, "__module__", None) == ENGINE for graph in graphs for n in graph.nodes):
        return []
    ops = "\n".join(
        f"    {number_of(kind)}: lambda {', '.join(LETTERS[: kind.arity])}: {_torch(kind.formula)},  # {kind.name}"
        for kind in kinds
    )
    return [_HELPER.replace("{ops}", ops).replace("{momentum}", repr(MOMENTUM)).replace("{eps}", repr(EPS))]


class _Torch(ast.NodeTransformer):
    """Functions by their names in torch. Of equal arguments the first is taken, and gets the gradient."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        args = [self.visit(arg) for arg in node.args]
        name = node.func.id
        if name in ("maximum", "minimum"):
            first, second = args
            strict: ast.cmpop = ast.Gt() if name == "maximum" else ast.Lt()
            loose: ast.cmpop = ast.GtE() if name == "maximum" else ast.LtE()
            sign = strict if isinstance(second, ast.Constant) else loose
            args, name = [ast.Compare(first, [sign], [second]), first, second], "where"
        elif name == "where" and all(isinstance(arg, ast.Constant) for arg in args[1:]):
            # Two numbers have no type.
            like = ast.Attribute(ast.Name("torch", ast.Load()), "full_like", ast.Load())
            args[1] = ast.Call(like, [ast.Name("a", ast.Load()), args[1]], [])
        function = ast.Attribute(ast.Name("torch", ast.Load()), name, ast.Load())
        return ast.Call(function, args, [])


def _torch(formula: str) -> str:
    return ast.unparse(_Torch().visit(copy.deepcopy(value_tree(formula))))


def parameter(row: Storage, seed: int) -> str:
    """The statement that makes a buffer or the numbers of an op graph, with the values that it begins with."""
    first = initial(row, seed)
    rest = _REST.get(row.name.rpartition(".")[2], 0)
    values = first.tolist()
    while values and (values[-1] == rest or values[-1] == [rest] * 3):
        values.pop()
    dtype = "" if first.is_floating_point() else f", {first.dtype}"
    table = f"padded({values}, {tuple(first.shape)}, {rest}{dtype})"
    kind = "" if row.kind == "param" else f', "{row.kind}"'
    lines = textwrap.wrap(f'put(self, "{row.name}", {table}{kind})', 108, break_on_hyphens=False)
    return "\n            ".join(lines)
