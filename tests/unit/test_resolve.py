"""Resolving names: parameters by place, sharing, freezing, repeating blocks, run-time sizes."""

import textwrap

import pytest
import torch

from r2d2c import CompileError, compile, loads
from r2d2c.emit import emit_python
from r2d2c.model import Model

HEAD = """\
r2d2c: 1
dims: {D: 6, H: 4, depth: 1..8}
inputs:
  x: f32[B, D]
  s: f32[B, depth, D]
blocks:
  residual(x): |
    return x + (x |> linear(H, name=inner) |> batch_norm |> relu)
"""


def model(*statements: str) -> Model:
    lines = textwrap.indent("\n".join(statements), "      ")
    text = (
        f"{HEAD}tasks:\n  t:\n    behavior: |\n{lines}\n    distance: mean((h - 1) ^ 2)\noutputs:\n  h: t.h\n"
    )
    return compile(loads(text))


def layers(made: Model) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in made.state_dict()))


def run(made: Model) -> torch.Tensor:
    inputs = {"x": torch.randn(3, 6), "s": torch.randn(3, 5, 6)}
    step = made.learn(**inputs)
    assert torch.isfinite(step.losses["t"])
    return made(**inputs)["h"]  # type: ignore[no-any-return]


def test_a_repeated_block_is_named_as_if_it_were_written_as_often() -> None:
    repeated = model("a = linear(x, H)", "h = residual(a, repeat=3)")
    assert layers(repeated)[1::2] == ["t.h.residual.inner", "t.h.residual_2.inner", "t.h.residual_3.inner"]
    written = model("a = linear(x, H)", "h = a |> residual |> residual |> residual")
    assert repeated.state_dict().keys() == written.state_dict().keys()
    x, s = torch.randn(3, 6), torch.randn(3, 5, 6)
    assert torch.equal(repeated(x=x, s=s)["h"], written(x=x, s=s)["h"])
    run(repeated)
    scope = {"__name__": "emitted"}
    exec(emit_python(repeated), scope)


def test_layers_of_a_repeated_block_by_name() -> None:
    made = model(
        "a = linear(x, H)",
        "b = residual(a, repeat=2, name=tower)",
        "h = linear(b, H, weight=tower_2.inner.weight)",
    )
    assert layers(made) == [
        "t.a.linear",
        "t.tower.inner",
        "t.tower.out.batch_norm",
        "t.tower_2.inner",
        "t.tower_2.out.batch_norm",
        "t.h.linear",
    ]
    assert "t.h.linear.weight" not in made.state_dict()
    run(made)


def test_repeating_with_shared_parameters() -> None:
    made = model("a = linear(x, H)", "h = residual(a, repeat=3, shared=true)")
    assert layers(made) == ["t.a.linear", "t.h.residual.inner", "t.h.residual.out.batch_norm"]
    run(made)


def test_a_frozen_block_freezes_all_it_makes() -> None:
    made = model("a = linear(x, H)", "b = residual(a, frozen=true)", "h = residual(b, frozen=false)")
    assert [name for name, _ in made.named_parameters()] == [
        "t.a.linear.weight",
        "t.a.linear.bias",
        "t.h.residual.inner.weight",
        "t.h.residual.inner.bias",
        "t.h.residual.out.batch_norm.weight",
        "t.h.residual.out.batch_norm.bias",
    ]
    frozen = dict(made.named_buffers())["t.b.residual.inner.weight"].clone()
    run(made)
    assert torch.equal(frozen, dict(made.named_buffers())["t.b.residual.inner.weight"])


def test_a_weight_is_shared_with_another_task() -> None:
    text = f"""{HEAD}tasks:
  encode:
    behavior: h = linear(x, H, name=first)
  decode:
    behavior: x2 = linear(encode.h, D, weight=transpose(encode.first.weight))
    distance: mse(x2, x)
outputs:
  x2: decode.x2
"""
    made = compile(loads(text))
    assert [n for n, _ in made.named_parameters()] == [
        "encode.first.weight",
        "encode.first.bias",
        "decode.x2.linear.bias",
    ]


def test_a_run_time_range_as_the_size_of_an_axis() -> None:
    made = model("h = linear(sum(s, 1) / depth, H)")
    x, s = torch.randn(2, 6), torch.randn(2, 4, 6)
    torch.testing.assert_close(
        made(x=x, s=s)["h"], torch.nn.functional.linear(s.mean(1), *made.state_dict().values())
    )
    run(made)


@pytest.mark.parametrize("name", ["T", "depth"])
def test_a_size_that_no_input_gives(name: str) -> None:
    text = f"""r2d2c: 1
dims: {{D: 6, depth: 1..8}}
inputs:
  x: f32[B, D]
targets:
  y: f32[B, {name}]
tasks:
  t:
    behavior: h = linear(x, 3) / {name}
    distance: mean(h) / {name} + mean(y)
outputs:
  h: t.h
"""
    with pytest.raises(CompileError) as error:
        loads(text)
    # Where targets can be read, theirs will do.
    assert [(d.code, d.message) for d in error.value.diagnostics] == [
        ("E217", f"no input has the dim `{name}`, so its size is not known when the model runs")
    ]


@pytest.mark.parametrize(
    ("behavior", "size"),
    [
        ("h = (linear(x, 3) + z) * W", 3),
        ("h = linear(x, 3) + reshape(z, (B, W))", 3),
        ("h = linear(x, 3) + z + mean(z[:, :W - 1], 1, keep=true)", 3),
        ('h = linear(x, 3) + rearrange(z, "b (c d) -> b (d c)", c=W)', 3),
        ("h = linear(x, 3) + sum(z, 1, keep=true) / W", 5),
    ],
)
def test_an_inferred_dim_as_a_number(behavior: str, size: int) -> None:
    text = f"""r2d2c: 1
dims: {{D: 6, W: infer}}
inputs:
  x: f32[B, D]
  z: f32[B, W]
tasks:
  t:
    behavior: {behavior}
    distance: mean(h ^ 2)
outputs:
  h: t.h
"""
    made = compile(loads(text))
    x, z = torch.randn(2, 6), torch.randn(2, size)
    a = torch.nn.functional.linear(x, *made.state_dict().values())
    last = z.sum(1, keepdim=True) / size if size == 5 else z
    wanted = (
        (a + z) * 3
        if "*" in behavior
        else a + last + (z[:, :2].mean(1, keepdim=True) if "mean(z" in behavior else 0)
    )
    torch.testing.assert_close(made(x=x, z=z)["h"], wanted)
    made.learn(x=x, z=z)


def test_an_inferred_dim_that_nothing_decides() -> None:
    text = (
        HEAD.replace("H: 4,", "H: 4, W: infer,")
        + """tasks:
  t:
    behavior: h = linear(x, H) * W + mean(s)
    distance: mean(h ^ 2)
outputs:
  h: t.h
"""
    )
    with pytest.raises(CompileError, match=r"E217.*`W` cannot be inferred, and no port has it as an axis"):
        loads(text)
