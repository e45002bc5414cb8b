"""Syntax to the resolved graph: names, dims, blocks, links."""
