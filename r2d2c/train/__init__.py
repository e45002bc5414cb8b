"""Training: data, optimizers, metrics, checkpoints and run folders.

``r2d2c.train(spec, …)`` trains a spec: the package is also that function, `r2d2c.train.api.train`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from r2d2c.train.api import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
