"""Where all random numbers come from: a seed for every name, so that what one part draws moves no other."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, name: str, step: int = 0) -> int:
    """A 63-bit seed that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
