"""Random draws that belong to a sample: a hash of the seed, the epoch and the sample's row, and of nothing else.

A sample therefore gets the same draws in whatever batch it comes, on every device, in every process, and after a
resume. The hash is the output function of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators", figure 16) over counters; what is drawn from it is made by operations that are rounded exactly, so
that it does not depend on how a batch is split among the lanes of a processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from r2d2c.train.data.plan import stable_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The draws of some samples. ``keys`` i64[B]: a hash for each; every draw has a ``number``."""

    keys: Tensor

    @classmethod
    def of(cls, rows: Tensor, *parts: object) -> Draws:
        """Of the samples in rows i64[B], for a purpose that the parts name (a seed, an epoch, a port …)."""
        return cls(_mix(rows * _signed(_GOLDEN) + _signed(stable_seed(*parts))))

    def bits(self, number: int) -> Tensor:
        """i64[B] of 64 random bits."""
        return _mix(self.keys + _signed(_GOLDEN * (number + 1)))

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """f64[B] in ``[low, high)``."""
        import torch

        unit = ((self.bits(number) >> 11) & ((1 << 53) - 1)).to(torch.float64).mul_(2.0**-53)
        return unit.mul_(high - low).add_(low)

    def below(self, number: int, count: int) -> Tensor:
        """i64[B] in ``0 … count - 1``, for a count below 2^31."""
        return (((self.bits(number) >> 32) & 0xFFFFFFFF) * count) >> 32

    def normal(self, count: int, dtype: torch.dtype) -> Tensor:
        """``[B, count]`` of a standard normal distribution, each one of 65,536 quantiles of it (4.3 at most)."""
        import torch

        words = torch.arange(1, (count + 3) // 4 + 1, device=self.keys.device) * _signed(_GOLDEN)
        hashed = _mix(_mix(self.keys)[:, None] + words)
        places = hashed.view(torch.int16)[:, :count].to(torch.int64).add_(1 << 15)
        return _quantiles(dtype, self.keys.device)[places]


def _signed(value: int) -> int:
    """The same 64 bits as a signed number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's output function of every element of i64[...]; torch's products wrap around as they should."""
    first, second, third = _SHIFTS
    one, other = (_signed(multiplier) for multiplier in _MULTIPLIERS)
    values = (values ^ _shifted(values, first)) * one
    values = (values ^ _shifted(values, second)).mul_(other)
    return values ^ _shifted(values, third)


def _shifted(values: Tensor, by: int) -> Tensor:
    """The bits moved right, with zeros behind them (torch's own shift repeats the sign)."""
    return (values >> by).bitwise_and_((1 << (64 - by)) - 1)


@cache
def _quantiles(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The normal distribution's quantiles at the middles of 2^16 equal parts, symmetric about 0."""
    import torch

    upper = torch.special.ndtri((torch.arange(1 << 15, dtype=torch.float64) + 0.5) / (1 << 16) + 0.5)
    return torch.cat([-upper.flip(0), upper]).to(dtype).to(device)
