"""ℓ₁, which has no mirror map: minimiser by a linear program, KKT error by bounded squares."""

import numpy as np
from scipy.optimize import linprog, lsq_linear

_ZERO = 1e-10  # of the largest entry: below, an entry counts as 0


def l1_minimizer(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, str]:
    """argmin ‖β‖₁ s.t. Xβ = y, a vertex of them if there are several, and a note."""
    d = X.shape[1]
    found = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y, method="highs")
    if not found.success:
        return np.full(d, np.nan), f"the linear program failed: {found.message}"
    several = "one of several minimisers" if _can_move(X, found) else ""
    return found.x[:d] - found.x[d:], several


def _can_move(X: np.ndarray, found) -> bool:
    """Whether a vertex can be left at no cost: along columns of no reduced cost that depend."""
    free = np.abs(found.lower.marginals) <= 1e-9
    columns, at_zero = np.hstack([X, -X])[:, free], found.x[free] <= _ZERO * np.max(found.x)
    if np.linalg.matrix_rank(columns) == columns.shape[1]:
        return False
    bounds = [(0 if zero else -1, 1) for zero in at_zero]
    rows = np.zeros(len(columns))
    most = linprog(-at_zero.astype(float), A_eq=columns, b_eq=rows, bounds=bounds, method="highs")
    return not most.success or most.fun < -1e-9


def l1_stationarity(X: np.ndarray, beta: np.ndarray) -> float:
    """The least ‖g − Xᵀν‖ / ‖g‖ over ν and subgradients g of ‖·‖₁ at β, for X of full row rank."""
    size = np.abs(beta)
    free = size <= _ZERO * np.max(size)
    Q, _ = np.linalg.qr(X.T)
    outside = np.eye(len(beta)) - Q @ Q.T
    g = np.where(free, 0, np.sign(beta))
    if np.any(free):
        g[free] = lsq_linear(outside[:, free], -outside @ g, bounds=(-1, 1)).x
    return float(np.linalg.norm(outside @ g) / np.linalg.norm(g))
