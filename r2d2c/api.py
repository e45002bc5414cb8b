"""The Python calls: `load`, `loads`, `compile`, `export`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c import driver
from r2d2c.driver import Checked
from r2d2c.source import Source
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.model import Model


def load(
    path: str | Path,
    *,
    plugins: Iterable[Any] = (),
    settings: Sequence[str] = (),
    credit: str | None = None,
    seed: int | None = None,
) -> Checked:
    """Read and check a spec. Raises `CompileError` with every diagnostic of the first stage that has errors.

    plugins: modules or objects whose `OPS` and `CREDIT_RULES` (see `r2d2c.plugins`) the spec may use.
    settings: as ``--set``: ``["dims.H=128"]``. credit: as ``--credit``: that of every link, ``"direct"``.
    """
    from r2d2c.plugins import collect

    path = Path(path)
    found = collect(plugins)
    source = driver.read(path)
    return driver.check_source(
        source,
        folder=path.parent,
        settings=with_credit(settings, credit),
        ops=found.ops,
        rules=found.rules,
        seed=seed,
    )


def loads(
    text: str,
    *,
    name: str = "<spec>",
    folder: str | Path = ".",
    plugins: Iterable[Any] = (),
    settings: Sequence[str] = (),
    credit: str | None = None,
    seed: int | None = None,
) -> Checked:
    """As `load`, from a text. ``folder`` is where relative imports and data are looked for."""
    from r2d2c.plugins import collect

    found = collect(plugins)
    source = Source(name, text)
    return driver.check_source(
        source,
        folder=Path(folder),
        settings=with_credit(settings, credit),
        ops=found.ops,
        rules=found.rules,
        seed=seed,
    )


def compile(spec: Checked | str | Path, backend: str = "eager", **options: Any) -> Model:
    """An nn.Module from a spec (or the path of one). backends: eager, inductor; onnx for inference only."""
    from r2d2c.model import Model

    checked = spec if isinstance(spec, Checked) else load(spec, **options)
    return Model(checked, backend)


def export(model: Model, path: str | Path, **options: Any) -> Any:
    """Write a verified ONNX file of the inference graph. Raises `CompileError` if it does not match the model."""
    from r2d2c.backend import find_backend

    writer = find_backend("onnx").export
    assert writer is not None
    return writer(model, Path(path), **options)
