"""`fmt`: one layout, comments kept, meaning kept, nothing left to do the second time."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d2c.syntax.fmt import format_spec
from r2d2c.syntax.fmt_expression import format_expression

SPECS = Path(__file__).parents[2] / "specs"

MESSY = """\


# about the file

# the tasks
tasks:   # head
   # enc
   encode:

      behavior:   |   # c
          h=x|>linear( 2*H,bias = true )|>relu   # keep
          # full


          y = h[ :,0 ]+-1

      distance: "mse(h,r)"
      doc: |
         a   b
           c
      # tail of encode
   # tail of tasks
   classify: {behavior: a=b ,  weight:   0.3}


# above model
model: foo    # name
r2d2c: 1
outputs:
    p:
      a  +
       b
    q: '(1,2)'
train:
  metrics:
  - accuracy( a,b ) # x
  # between
  - mse(a,b)

  data: idx:/a,b
links:
   a.b->c:
      credit: local
dims: {D: 64,H: 2*D, depth: 1..8,
   # c
   C: 3
   }
# end
"""

NEAT = """\
# about the file

r2d2c: 1

# above model
model: foo    # name
dims: {D: 64,H: 2*D, depth: 1..8,
  # c
  C: 3
  }
# the tasks
tasks:   # head
  # enc
  encode:
    behavior: |   # c
      h = x |> linear(2*H, bias=true) |> relu   # keep
      # full

      y = h[:, 0] + -1

    distance: "mse(h, r)"
    doc: |
      a   b
        c
    # tail of encode
  # tail of tasks
  classify: {behavior: a = b, weight: 0.3}
links:
  a.b -> c:
    credit: local
outputs:
  p: a +
    b
  q: '(1, 2)'
train:
  metrics:
    - accuracy(a, b)  # x
    # between
    - mse(a, b)

  data: idx:/a,b
# end
"""


def test_a_messy_spec_becomes_neat() -> None:
    assert format_spec(MESSY) == NEAT
    assert format_spec(NEAT) == NEAT


@pytest.mark.parametrize("path", sorted(SPECS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_our_specs_only_lose_blanks(path: Path) -> None:
    text = path.read_text("utf-8")
    again = format_spec(text)
    assert format_spec(again) == again


@pytest.mark.parametrize(
    ("text", "neat"),
    [
        ("h=x|>linear(2*H ,bias =true)", "h = x |> linear(2*H, bias=true)"),
        ("a ,b=f( x )", "a, b = f(x)"),
        ("2* H", "2 * H"),
        ("2*H + 1", "2*H + 1"),
        ("D//4", "D//4"),
        ("D// 4", "D // 4"),
        ("x^2+-1", "x^2 + -1"),
        ("-x+-y-3", "-x + -y - 3"),
        ("x[ :,1 : 2, ... ,-1]", "x[:, 1:2, ..., -1]"),
        ("not(a)and b", "not (a) and b"),
        ("return(a,b)", "return (a, b)"),
        ("f (x) [0] . y", "f(x)[0].y"),
        ("a<=b", "a <= b"),
        ("a.h->b", "a.h -> b"),
        ("reduce(x,'b d->b')", "reduce(x, 'b d->b')"),
        ("f(x,)", "f(x,)"),
        ("lr=2e-3", "lr = 2e-3"),
        ("f(a=(b,c))", "f(a=(b, c))"),
        ("a?b  c", "a?b  c"),
    ],
)
def test_expressions(text: str, neat: str) -> None:
    assert format_expression(text) == neat
    assert format_expression(neat) == neat


@pytest.mark.parametrize(
    "text",
    [
        "a: [",  # not YAML
        "a: 1\na: 2\n",  # a key twice
        "a:   &x 1\nb: *x\n",  # aliases
        "a: |2\n    b\n",  # explicit indentation
        "{a:   1}\n",
        "- a\n",
        "",
        "a:\n  # comment before a text\n    b\n",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert format_spec(text) == text


def test_line_breaks_of_windows_become_ours() -> None:
    assert format_spec("r2d2c: 1\r\ntasks:\r\n  a:\r\n    behavior: |\r\n      b=c\r\n") == (
        "r2d2c: 1\ntasks:\n  a:\n    behavior: |\n      b = c\n"
    )


EXPRESSIONS = st.lists(
    st.sampled_from(
        [
            "x",
            "y1",
            "2",
            "1.5e-3",
            "+",
            "-",
            "*",
            "//",
            "^",
            "==",
            "|>",
            "=",
            ",",
            "(",
            ")",
            "[",
            "]",
            ".",
            ":",
            "not",
            "'s t'",
            "...",
        ]
    ),
    min_size=1,
    max_size=12,
).flatmap(lambda parts: st.sampled_from(["", " ", "  "]).map(lambda gap: gap.join(parts)))
COMMENTS = st.sampled_from(["", "  # note", " # a: b", "   # 'x"])
BLANKS = st.sampled_from(["", "\n", "\n\n\n", "# above\n", "\n# above\n\n", "  # inside\n"])


@st.composite
def specs(draw: st.DrawFn) -> str:
    sections = []
    for name in draw(st.permutations(["r2d2c", "dims", "tasks", "outputs", "train", "links"])):
        indent = " " * draw(st.integers(1, 5))
        more = indent * 2
        note = draw(COMMENTS)
        value, other = draw(EXPRESSIONS), draw(EXPRESSIONS)
        body = {
            "r2d2c": f"r2d2c: 1{note}\n",
            "dims": f"dims: {{D:  {draw(st.sampled_from(['3', '2*H', '1..8']))}, E: 4}}{note}\n",
            "tasks": f"tasks:{note}\n{draw(BLANKS)}{indent}a:\n{more}behavior: |{note}\n{more}  {value}{note}\n\n{more}  {other}\n{draw(BLANKS)}",
            "outputs": f"outputs:\n{indent}p: {value}{note}\n{indent}q:  '{other.replace(chr(39), '')}'\n",
            "train": f"train:\n{indent}metrics:\n{indent}- {value}\n{draw(BLANKS)}{indent}- {other}{note}\n",
            "links": f"links:\n{indent}a.b->c: {{credit:  local}}\n",
        }[name]
        sections.append(draw(BLANKS) + body)
    return "".join(sections)


@settings(max_examples=200, deadline=None)
@given(specs())
def test_the_second_time_changes_nothing(text: str) -> None:
    once = format_spec(text)
    assert format_spec(once) == once


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS)
def test_expressions_keep_their_tokens(text: str) -> None:
    once = format_expression(text)
    assert "".join(once.split()) == "".join(text.split())
    assert format_expression(once) == once


LOOPS = """\
r2d2c: 1
loops:
  refine( data,x ):
    repeat:   depth
    parameters:   per_step
    recompute:  true
    each: {xt: x,  yt: y+1}
    carry:
      c:   f32[B,S]=learned(normal( 0.1 ))
      z:
        value: f32[B,S]=zeros
        credit:   truncate( 3)
    widths:
      c: [1/4,1/2, 1]
    doc:  A  text,  not=an expression
    body: |
      v=linear(data,S)
      # why
      c=tanh(v+linear(c,S))
losses:
  anytime:
    value: mse(t.r.logits.steps,y)
    steps: 2 ..depth-1
hypernets:
  make:
    makes: linear(V,bias=false)
    mode: factors
    rank:  4
dims: {D: 64, depth: 1..8=3, e: 1 .. 4}
train:
  sizes:
    depth:  1 ..4
    width: 1/2
"""


def test_loops_and_ranges() -> None:
    text = format_spec(LOOPS)
    for line in (
        "dims: {D: 64, depth: 1..8 = 3, e: 1..4}",
        "    makes: linear(V, bias=false)",
        "  refine(data, x):",
        "    parameters: per_step",
        "    each: {xt: x, yt: y + 1}",
        "      c: f32[B, S] = learned(normal(0.1))",
        "        value: f32[B, S] = zeros",
        "        credit: truncate(3)",
        "      c: [1/4, 1/2, 1]",
        "    doc: A  text,  not=an expression",
        "      c = tanh(v + linear(c, S))",
        "    steps: 2..depth - 1",
        "    depth: 1..4",
        "    width: 1/2",
    ):
        assert f"\n{line}\n" in text
    assert text.index("hypernets:") < text.index("loops:") < text.index("losses:")
    assert format_spec(text) == text
