"""`Clock`: the learning rates of all optimizers of a training, as one schedule moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from r2d2c.train.schedules import PLATEAU, Part, build_schedule


class Clock:
    """Rates by the number of their optimizer. bases: those at the beginning.

    A schedule is a function of the batches so far, of the epochs where nobody knows how many batches make one.
    ``plateau`` looks at the monitor after every epoch, and begins when a warmup before it is over.
    """

    def __init__(self, bases: Sequence[float]) -> None:
        import torch

        # An optimizer of nothing, for torch's schedules to move.
        groups = [{"params": [torch.nn.Parameter(torch.empty(0))], "lr": base} for base in bases]
        self._optimizer = torch.optim.SGD(groups, lr=bases[0])
        self._schedule: Any = None
        self._plateau: Any = None
        self._rise = 0
        self._steps = 0
        self.per_batch = False
        """Whether the schedule counts batches, not epochs."""

    def start(
        self,
        parts: Sequence[Part],
        epochs: int,
        batches: int | None,
        better: Literal["higher", "lower"] = "lower",
    ) -> None:
        """Move by a schedule. batches: of an epoch, if that is known. better: values of the monitor."""
        unit = batches or 1
        self.per_batch = batches is not None
        self._schedule = build_schedule(self._optimizer, parts, total=epochs * unit, unit=unit)
        given = next((arguments for name, arguments in parts if name == "plateau"), None)
        if given is not None:
            from torch.optim.lr_scheduler import ReduceLROnPlateau

            arguments = {**PLATEAU, **given}
            self._rise = int(dict(parts).get("warmup", {}).get("epochs", 1)) * unit * (len(parts) > 1)
            self._plateau = ReduceLROnPlateau(
                self._optimizer,
                mode="max" if better == "higher" else "min",
                factor=arguments["factor"],
                patience=int(arguments["patience"]),
                threshold=arguments["threshold"],
                cooldown=int(arguments["cooldown"]),
                min_lr=arguments["minimum"],
            )
        self._optimizer.step()  # of nothing; torch wants one before the schedule's first

    @property
    def moves(self) -> bool:
        """Whether the rates ever change."""
        return self._schedule is not None or self._plateau is not None

    @property
    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def after_batch(self) -> None:
        if self.per_batch:
            self._advance()

    def after_epoch(self, value: float | None = None) -> None:
        """value: of the monitor."""
        if not self.per_batch:
            self._advance()
        if self._plateau is not None and value is not None and self._steps >= self._rise:
            self._plateau.step(value)

    def _advance(self) -> None:
        self._steps += 1
        # After its warmup, a plateau alone decides.
        if self._schedule is not None and (self._plateau is None or self._steps <= self._rise):
            self._schedule.step()

    def state(self) -> dict[str, Any] | None:
        """Plain numbers and lists; None without a schedule."""
        if self._plateau is not None:
            rise = dict(self._schedule.state_dict()) if self._schedule is not None else None
            plateau = dict(self._plateau.state_dict())
            return {"plateau": plateau, "rise": rise, "steps": self._steps, "rates": self.rates}
        return dict(self._schedule.state_dict()) if self._schedule is not None else None

    def load(self, state: Mapping[str, Any] | None, done: int, *, same: bool = True) -> None:
        """Go on from `state`. Where it is not that of the ``same`` number of epochs, a schedule runs anew for ``done``
        batches or epochs, as it may end with them; a plateau goes on."""
        if self._plateau is not None and state is not None:
            self._plateau.load_state_dict(dict(state["plateau"]))
            if self._schedule is not None:
                self._schedule.load_state_dict(dict(state["rise"]))
            self._steps = state["steps"]
            self._set(state["rates"])
        elif self._schedule is not None and state is not None and same:
            self._schedule.load_state_dict(dict(state))
            self._set(self._schedule.get_last_lr())
        else:
            for _ in range(done):
                self._advance()

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
