"""The JSON Schema of specs, for editors; `grammar/schema.json` is its text, kept equal by a test."""

from __future__ import annotations

import json
from typing import Any


def schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that is generated from the models of the sections."""
    from r2d2c.syntax.section_models import SpecModel

    generated = SpecModel.model_json_schema()
    definitions = generated.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "r2d2c spec",
        **{key: _tidied(value) for key, value in generated.items() if key != "title"},
        "$defs": {name: _tidied(value) for name, value in definitions.items()},
    }


def schema_text() -> str:
    """The text of `grammar/schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _tidied(node: Any) -> Any:
    """Without the titles that pydantic makes of names, and without `null`, which no key accepts."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {
        key: {name: _tidied(item) for name, item in value.items()} if key == "properties" else _tidied(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    options = tidy.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        options = [option for option in options if option != {"type": "null"}]
        rest = {key: value for key, value in tidy.items() if key != "anyOf"}
        tidy = {**options[0], **rest} if len(options) == 1 else {**rest, "anyOf": options}
    return tidy
