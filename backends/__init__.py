"""Backends, found by entry point: what turns a lowered graph into something that runs."""
