"""The residual clock by hand in Numba: fixed steps of Tsit5, as in `jaxmd_sign._sweep._engine`.

Two columns only, so that every sum is written out; chunks of lanes over all cores, and within one
the lanes innermost, so that LLVM turns a whole step into wide vectors. The exponential is written
out too: a call to that of the C library would not be. `rtol` chooses the number of steps by the
order of the method; no estimate of the error is made, and nothing is solved again.
"""

from functools import cache

import numpy as np

from ..lanes import Lanes
from ._cores import with_numba

_WIDTH = 64
# Tsitouras 2011: rows of the tableau; the last one is the solution.
_ROWS = (
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
     -0.028269050394068383),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
     2.324710524099774),
)  # fmt: skip
_NODES = (0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0)


def limits(lanes: Lanes, rtol: float) -> np.ndarray:
    """w and ω at t = ∞."""
    num_steps = max(4, round(20 * (1e-7 / rtol) ** 0.2))
    width = -(-len(lanes.Y) // _WIDTH) * _WIDTH
    arrays = (np.pad(x, (0, width - len(x)), mode="edge") for x in (*lanes.a.T, *lanes[1:]))
    return _solver()(*arrays, num_steps)[:, : len(lanes.Y)].T


@cache
def _solver():
    numba = with_numba()
    inline = numba.njit(forceinline=True, fastmath=True, error_model="numpy")

    @inline
    def exp(x):
        """For x in [−700, 0]: 2ⁿ times a polynomial in the rest."""
        n = np.floor(x * 1.4426950408889634 + 0.5)
        r = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-6
        p = 1 / 479001600.0
        p = p * r + 1 / 39916800.0
        p = p * r + 1 / 3628800.0
        p = p * r + 1 / 362880.0
        p = p * r + 1 / 40320.0
        p = p * r + 1 / 5040.0
        p = p * r + 1 / 720.0
        p = p * r + 1 / 120.0
        p = p * r + 1 / 24.0
        p = p * r + 1 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        return p * np.int64((np.int64(n) + 1023) << 52).view(np.float64)

    @inline
    def shrinking(z):
        x = exp(max(min(z, 1.0) - 1.0, -700.0))
        b = 3 - z if z > 1 else 1 + x
        c = z + 2 if z > 1 else 3 * x
        return (np.sqrt(b * b + 4 * c) - b) * 0.5

    @inline
    def log_slope(z, M):
        """J = M / (dM/dz)."""
        return (M if z > 1 else 1.0) + 4 * M / ((M + 1) * (M + 1 if z > 1 else 3 - M))

    @inline
    def field(e, w0, w1, z0, z1, a0, a1, epsilon, layer, reach, rate, i0, i1):
        back = reach / (1 + e)
        sigma = reach - back
        q_w = (back - layer) * (1 + sigma)
        drive = rate * back * sigma * sigma
        inverse_p = 1 / (q_w + epsilon)
        M0, M1 = shrinking(z0), shrinking(z1)
        common = epsilon * inverse_p
        o0, o1 = M0 * common * i0, M1 * common * i1
        q = q_w + a0 * o0 * o0 + a1 * o1 * o1
        # One division for both growths.
        g0, g1 = q * a0 * w0 + epsilon, q * a1 * w1 + epsilon
        both = 1 / (g0 * g1)
        h0, h1 = a0 * w0 * g1 * both, a1 * w1 * g0 * both
        speed = drive / (a0 * w0 * h0 + a1 * w1 * h1)
        twice = -2 * drive * inverse_p
        # And one for the rates of both weights that shrink.
        g0, g1 = q * a0 * o0 + epsilon, q * a1 * o1 + epsilon
        both = 1 / (g0 * g1)
        k0, k1 = a0 * g1 * both, a1 * g0 * both
        d0 = log_slope(z0, M0) * (twice - speed * k0)
        d1 = log_slope(z1, M1) * (twice - speed * k1)
        return speed * h0, speed * h1, d0, d1

    @inline
    def start(M):
        return M + 2 * (M - 1) / (M + 1) if M > 1 else 1 + np.log(M * (M + 1) / (3 - M))

    @inline
    def in_q(q, w0, w1, o0, o1, a0, a1, epsilon):
        h0, h1 = a0 / (a0 * q * w0 + epsilon), a1 / (a1 * q * w1 + epsilon)
        k0, k1 = a0 / (a0 * q * o0 + epsilon), a1 / (a1 * q * o1 + epsilon)
        S = 2 * (a0 * (w0 * w0 * h0 + o0 * o0 * k0) + a1 * (w1 * w1 * h1 + o1 * o1 * k1))
        return h0 * w0 / S, h1 * w1 / S, k0 / S, k1 / S

    (b21,), (b31, b32), (b41, b42, b43), (b51, b52, b53, b54), (b61, b62, b63, b64, b65), last = (
        _ROWS
    )
    b71, b72, b73, b74, b75, b76 = last
    n2, n3, n4, n5 = _NODES[:4]

    @numba.njit(parallel=True, fastmath=True, error_model="numpy")
    def solve(x0, x1, Y, eps, alphas, num_steps):
        out = np.empty((4, len(Y)))
        h = 1.0 / num_steps
        for chunk in numba.prange(len(Y) // _WIDTH):
            low = chunk * _WIDTH
            # Rows: e, w, z, their slopes; a, ε, layer, reach, rate; growth of e at the nodes; 1/a.
            s = np.empty((22, _WIDTH))
            for i in range(_WIDTH):
                total = x0[low + i] + x1[low + i]
                a0, a1 = x0[low + i] / total, x1[low + i] / total
                weight = np.sqrt(Y[low + i] / total)
                epsilon = eps[low + i] / (total * Y[low + i] * weight)
                alpha = alphas[low + i] / weight
                layer = epsilon / (2 * min(a0, a1))
                reach = 1 + layer
                e = alpha / (reach - alpha)
                length = -np.log(layer * e)
                z0 = start(a0 * (1 - alpha * alpha + epsilon) * alpha / epsilon)
                z1 = start(a1 * (1 - alpha * alpha + epsilon) * alpha / epsilon)
                rate, i0, i1 = length / reach, 1 / a0, 1 / a1
                f = field(e, alpha, alpha, z0, z1, a0, a1, epsilon, layer, reach, rate, i0, i1)
                s[0, i], s[1, i], s[2, i], s[3, i], s[4, i] = e, alpha, alpha, z0, z1
                s[5, i], s[6, i], s[7, i], s[8, i] = f
                s[9, i], s[10, i], s[11, i] = a0, a1, epsilon
                s[12, i], s[13, i], s[14, i] = layer, reach, rate
                s[20, i], s[21, i] = i0, i1
                s[15, i], s[16, i] = np.exp(length * h * n2), np.exp(length * h * n3)
                s[17, i], s[18, i] = np.exp(length * h * n4), np.exp(length * h * n5)
                s[19, i] = np.exp(length * h)
            for _ in range(num_steps):
                for i in range(_WIDTH):
                    e, w0, w1, z0, z1 = s[0, i], s[1, i], s[2, i], s[3, i], s[4, i]
                    p0, p1, r0, r1 = s[5, i], s[6, i], s[7, i], s[8, i]
                    a0, a1, epsilon = s[9, i], s[10, i], s[11, i]
                    layer, reach, rate = s[12, i], s[13, i], s[14, i]
                    i0, i1 = s[20, i], s[21, i]
                    lane = a0, a1, epsilon, layer, reach, rate, i0, i1
                    p20, p21, r20, r21 = field(
                        e * s[15, i],
                        w0 + h * b21 * p0,
                        w1 + h * b21 * p1,
                        z0 + h * b21 * r0,
                        z1 + h * b21 * r1,
                        *lane,
                    )
                    p30, p31, r30, r31 = field(
                        e * s[16, i],
                        w0 + h * (b31 * p0 + b32 * p20),
                        w1 + h * (b31 * p1 + b32 * p21),
                        z0 + h * (b31 * r0 + b32 * r20),
                        z1 + h * (b31 * r1 + b32 * r21),
                        *lane,
                    )
                    p40, p41, r40, r41 = field(
                        e * s[17, i],
                        w0 + h * (b41 * p0 + b42 * p20 + b43 * p30),
                        w1 + h * (b41 * p1 + b42 * p21 + b43 * p31),
                        z0 + h * (b41 * r0 + b42 * r20 + b43 * r30),
                        z1 + h * (b41 * r1 + b42 * r21 + b43 * r31),
                        *lane,
                    )
                    p50, p51, r50, r51 = field(
                        e * s[18, i],
                        w0 + h * (b51 * p0 + b52 * p20 + b53 * p30 + b54 * p40),
                        w1 + h * (b51 * p1 + b52 * p21 + b53 * p31 + b54 * p41),
                        z0 + h * (b51 * r0 + b52 * r20 + b53 * r30 + b54 * r40),
                        z1 + h * (b51 * r1 + b52 * r21 + b53 * r31 + b54 * r41),
                        *lane,
                    )
                    e = e * s[19, i]
                    p60, p61, r60, r61 = field(
                        e,
                        w0 + h * (b61 * p0 + b62 * p20 + b63 * p30 + b64 * p40 + b65 * p50),
                        w1 + h * (b61 * p1 + b62 * p21 + b63 * p31 + b64 * p41 + b65 * p51),
                        z0 + h * (b61 * r0 + b62 * r20 + b63 * r30 + b64 * r40 + b65 * r50),
                        z1 + h * (b61 * r1 + b62 * r21 + b63 * r31 + b64 * r41 + b65 * r51),
                        *lane,
                    )
                    w0 += h * (b71 * p0 + b72 * p20 + b73 * p30 + b74 * p40 + b75 * p50 + b76 * p60)
                    w1 += h * (b71 * p1 + b72 * p21 + b73 * p31 + b74 * p41 + b75 * p51 + b76 * p61)
                    z0 += h * (b71 * r0 + b72 * r20 + b73 * r30 + b74 * r40 + b75 * r50 + b76 * r60)
                    z1 += h * (b71 * r1 + b72 * r21 + b73 * r31 + b74 * r41 + b75 * r51 + b76 * r61)
                    p0, p1, r0, r1 = field(e, w0, w1, z0, z1, *lane)
                    s[0, i], s[1, i], s[2, i], s[3, i], s[4, i] = e, w0, w1, z0, z1
                    s[5, i], s[6, i], s[7, i], s[8, i] = p0, p1, r0, r1
            for i in range(_WIDTH):
                w0, w1, a0, a1, epsilon = s[1, i], s[2, i], s[9, i], s[10, i], s[11, i]
                o0, o1 = shrinking(s[3, i]) / a0, shrinking(s[4, i]) / a1
                q = a0 * o0 * o0 + a1 * o1 * o1
                f = in_q(q, w0, w1, o0, o1, a0, a1, epsilon)
                m0, m1 = w0 + q / 2 * f[0], w1 + q / 2 * f[1]
                n0, n1 = o0 * np.exp(-q / 2 * f[2]), o1 * np.exp(-q / 2 * f[3])
                f = in_q(q / 2, m0, m1, n0, n1, a0, a1, epsilon)
                w0, w1 = w0 + q * f[0], w1 + q * f[1]
                o0, o1 = o0 * np.exp(-q * f[2]), o1 * np.exp(-q * f[3])
                factor = (1 + a0 * o0 * o0 + a1 * o1 * o1) / (a0 * w0 * w0 + a1 * w1 * w1)
                factor = np.sqrt(factor)
                weight = np.sqrt(Y[low + i] / (x0[low + i] + x1[low + i]))
                out[0, low + i], out[1, low + i] = weight * factor * w0, weight * factor * w1
                out[2, low + i], out[3, low + i] = weight * o0, weight * o1
        return out

    return solve
