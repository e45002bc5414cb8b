"""``python -m r2d2c``."""

from r2d2c.cli.main import run

run()
