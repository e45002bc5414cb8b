"""YAML as the compiler sees it: files read, texts composed into trees with spans, `--set` applied."""

from __future__ import annotations

from r2d2c.syntax.files import MAX_BYTES, read_source
from r2d2c.syntax.yaml_compose import MAX_DEPTH, MAX_EXPANDED, MAX_NODES, compose, compose_node
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq, describe, plain_value, yaml_comment_after
from r2d2c.syntax.yaml_set import apply_set

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_EXPANDED",
    "MAX_NODES",
    "YMap",
    "YNode",
    "YScalar",
    "YSeq",
    "apply_set",
    "compose",
    "compose_node",
    "describe",
    "plain_value",
    "read_source",
    "yaml_comment_after",
]
