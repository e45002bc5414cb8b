"""First weights between places: none where there is no wire, and elsewhere as large as the wires of a point allow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from r2d2c.graph import Storage
from r2d2c.places import Rule


def wired_scale(row: Storage, seed: int) -> npt.NDArray[np.float64]:
    """What a draw is multiplied with: [m, n] for a weight, 0 where there is no wire, and [m] for a bias.

    An initialiser that scales with fan in or fan out was told of n and m; here every weight gets those of its points.
    Without one, numbers from -1..1 come to -1/√fan_in..1/√fan_in, as for `linear`.
    """
    rule: Rule = row.init.args[0]
    given = row.init.args[1].kind if len(row.init.args) > 1 else None
    table = rule.draw(seed)
    m, n = table.shape
    to = np.maximum(table.sum(1, keepdims=True), 1)
    out = np.maximum(table.sum(0, keepdims=True), 1)
    if given is None:
        scale = np.sqrt(1.0 / to)
    elif given in ("kaiming", "kaiming_normal"):
        scale = np.sqrt(n / to)
    elif given in ("xavier", "xavier_normal"):
        scale = np.sqrt((n + m) / (to + out))
    else:
        scale = np.ones((m, 1))
    return np.where(table, scale, 0.0) if len(row.axes) > 1 else np.asarray(scale[:, 0])
