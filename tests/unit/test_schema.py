"""The JSON Schema for editors: grammar/schema.json is what the models say, and accepts specs."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from r2d2c.syntax.json_schema import schema, schema_text

COMMITTED = Path(__file__).parents[2] / "grammar" / "schema.json"

SPEC = """\
r2d2c: 1
dims: {D: 64, H: 2*D, depth: 1..8}
inputs:
  x: f32[B, D]
blocks:
  f(x): return x
  g(x):
    body: return x
tasks:
  fit:
    behavior: p = linear(x, 1)
    weight: 0.5
links:
  fit.p -> fit: {credit: local}
outputs:
  p: fit.p
train: {data: digits, epochs: 3}
"""


def test_the_committed_schema_is_the_generated_one(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--refresh-goldens"):
        COMMITTED.write_text(schema_text(), "utf-8")
    assert COMMITTED.read_text("utf-8") == schema_text(), "run `make goldens` and read the diff"


def test_it_is_a_schema_and_accepts_a_spec() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(yaml.safe_load(SPEC), schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("modle",), "x"),
        (("r2d2c",), 2),
        (("outputs",), {}),
        (("inputs", "x-1"), "f32"),
        (("tasks", "fit", "behaviour"), "x"),
        (("tasks", "fit", "behavior"), ["x"]),
        (("dims", "D"), 0),
        (("train", "epochs"), "many"),
        (("train", "batch_size"), 0),
        (("blocks", "f(x)"), {"doc": "no body"}),
    ],
)
def test_it_refuses_what_check_refuses(path: tuple[str, ...], value: object) -> None:
    spec: dict[str, Any] = copy.deepcopy(yaml.safe_load(SPEC))
    node = spec
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec, schema())


def test_every_key_is_described() -> None:
    generated = schema()
    for model in [generated, *generated["$defs"].values()]:
        assert model["description"]
        for name, key in model["properties"].items():
            assert key.get("description"), name
