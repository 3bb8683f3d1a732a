"""Other ways to the same limits, each as its best user would write it.

Every peer is a function of (x, y, epsilon, alpha, rtol) that gives β (cases, blocks, 2), its
blocks split by hand. None knows of t = ∞: they integrate to a time by which the slowest mode of a
block has decayed by e^{-20}.
"""

import os
from functools import cache

import diffrax
import jax
import jax.numpy as jnp
import numpy as np


def final_time(x, y, epsilon, alpha):
    """The end of the sign stage at the latest, and twenty time constants after it."""
    a, Y = jnp.abs(x), jnp.abs(y)
    slowest = epsilon / (2 * jnp.min(a) * Y)
    return 2 * jnp.sqrt(Y / jnp.sum(a)) + 2 * alpha + 20 * slowest


@cache
def _numbalsoda():
    import numba
    from numba import carray, cfunc, njit, prange
    from numbalsoda import lsoda, lsoda_sig

    numba.set_num_threads(len(os.sched_getaffinity(0)))

    @cfunc(lsoda_sig)
    def field(t, state, slope, data):
        y, p, d = carray(state, (4,)), carray(data, (4,)), carray(slope, (4,))
        q = p[2] - p[0] * (y[0] * y[0] - y[2] * y[2]) - p[1] * (y[1] * y[1] - y[3] * y[3])
        for i in range(4):
            g = p[i % 2] * q * y[i]
            rate = g / (abs(g) + p[3])
            d[i] = rate if i < 2 else -rate

    address = field.address

    @njit(parallel=True)
    def solve(a, Y, epsilon, alpha, rtol, atol):
        beta = np.empty((len(epsilon), len(Y), 2))
        for case in prange(len(epsilon)):
            for b in range(len(Y)):
                slowest = epsilon[case] / (2 * min(a[b, 0], a[b, 1]) * Y[b])
                end = 2 * np.sqrt(Y[b] / (a[b, 0] + a[b, 1])) + 2 * alpha[case] + 20 * slowest
                data = np.array([a[b, 0], a[b, 1], Y[b], epsilon[case]])
                start = np.full(4, alpha[case])
                u, _ = lsoda(address, start, np.array([0.0, end]), data, rtol=rtol, atol=atol)
                for i in range(2):
                    beta[case, b, i] = u[1, i] ** 2 - u[1, i + 2] ** 2
        return beta

    return solve


def numbalsoda(x, y, epsilon, alpha, rtol):
    """Compiled LSODA, its right-hand side compiled too, cases over all cores (prange)."""
    signs = np.sign(x) * np.sign(y)[:, None]
    return signs * _numbalsoda()(np.abs(x), np.abs(y), epsilon, alpha, rtol, rtol / 10)


@jax.jit
def _diffrax(x, y, epsilon, alpha, rtol):
    def field(t, state, args):
        u, v = state
        gradient = x * (jnp.sum(x * (u**2 - v**2)) - y)
        return tuple(-g / (jnp.abs(g) + args) for g in (gradient * u, -gradient * v))

    start = (jnp.full(2, alpha), jnp.full(2, alpha))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Kvaerno5(),
        0.0,
        final_time(x, y, epsilon, alpha),
        None,
        start,
        epsilon,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol / 10),
        max_steps=100_000,
        throw=False,
    )
    u, v = (leaf[0] for leaf in solution.ys)
    return u**2 - v**2


def plain_diffrax(x, y, epsilon, alpha, rtol):
    """Diffrax in the time domain under vmap, a stiff solver, cases in the order of ε."""
    over_blocks = jax.vmap(_diffrax, in_axes=(0, 0, None, None, None))
    solve = jax.jit(jax.vmap(over_blocks, in_axes=(None, None, 0, 0, None)))
    order = np.argsort(epsilon)
    chunks = [solve(x, y, epsilon[some], alpha[some], rtol) for some in np.split(order, 8)]
    return np.concatenate(chunks)[np.argsort(order)]


PEERS = {"numbalsoda": numbalsoda, "plain Diffrax": plain_diffrax}
