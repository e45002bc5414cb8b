"""Least squares among the columns of an op graph: what of a column the others do not explain, and who makes up for it.

After Optimal Brain Surgeon (Hassibi & Stork 1993): with H the second moments of the columns, the weight w_q of a
read-out that goes costs w_q² / (2 [H⁻¹]_qq), eq. 5, and the others change by -w_q / [H⁻¹]_qq · H⁻¹ e_q. That is the
least-squares fit of the column q by those that stay. All in f64.
"""

from __future__ import annotations

import numpy as np

from r2d2c.opgraph import Ints

# Of each column's variance. f32 columns that are collinear are so up to 1e-14 of it, and then share evenly.
RIDGE = 1e-10
# The same for who makes up: more, as large weights that cancel each other would not last in training.
FIRM = 1e-6
# What is left of a column's variance, where that is as good as nothing.
NOTHING = 1e-9


class Surgeon:
    """The columns that are there, f64[N, columns], and their moments. kept: bool[columns], inputs and live ops.

    Columns that hold infinity or NaN explain nothing and are not explained.
    """

    def __init__(self, columns: Ints, kept: Ints) -> None:
        with np.errstate(all="ignore"):
            self.finite: Ints = np.logical_and.reduce(np.isfinite(columns), 0)
            self.kept = kept & self.finite
            clean = np.where(self.finite, columns, 0.0).astype(np.float64)
            self.mean: Ints = clean.mean(0)
            centred = clean - self.mean
            self.covariance: Ints = centred.T @ centred / len(columns)
        self.variance: Ints = np.diagonal(self.covariance).copy()
        # A column that is the same for all samples is so up to the rounding of its mean.
        self.varies: Ints = self.variance > (1e-12 * np.abs(self.mean)) ** 2

    def drop(self, column: int) -> None:
        """One that goes, and explains nothing from now on."""
        self.kept[column] = False

    def unexplained(self) -> Ints:
        """f64[columns]: the standard deviation of what all others, and a constant, leave of each; NaN where it is not finite."""
        found = np.where(self.finite, 0.0, np.nan)
        index = np.flatnonzero(self.kept & self.varies)
        if not len(index):
            return found
        spread = np.sqrt(self.variance[index])
        near = self.covariance[np.ix_(index, index)] / np.outer(spread, spread)
        near[np.diag_indices_from(near)] += RIDGE
        left = 1 / np.diagonal(np.linalg.inv(near)) - RIDGE
        found[index] = spread * np.sqrt(np.where(left > NOTHING, left, 0.0))
        return found

    def explain(self, column: int, *, constant: bool = True) -> tuple[Ints, float]:
        """A column as a sum of the others that are there, f64[columns], and a constant, 0 where there is none."""
        parts = np.zeros(len(self.mean))
        if not self.finite[column]:
            return parts, 0.0
        there = self.kept.copy()
        there[column] = False
        moments, level = self.covariance, 0.0
        if constant:
            there &= self.varies
        else:
            moments = moments + np.outer(self.mean, self.mean)
            there &= np.diagonal(moments) > 0
        index = np.flatnonzero(there)
        if len(index):
            spread = np.sqrt(np.diagonal(moments)[index])
            near = moments[np.ix_(index, index)] / np.outer(spread, spread)
            near[np.diag_indices_from(near)] += FIRM
            parts[index] = np.linalg.solve(near, moments[index, column] / spread) / spread
        if constant:
            level = float(self.mean[column] - parts @ self.mean)
        return parts, level
