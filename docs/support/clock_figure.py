"""The picture of the residual clock, from real solves: `python docs/support/clock_figure.py`."""

from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxmd_sign as jms
from jaxmd_sign._block import as_blocks
from jaxmd_sign._clock import Clock
from jaxmd_sign._figures import _COLORS, _DASHES, _MARKERS, save_plot
from jaxmd_sign._solve import integrate

X, Y, ALPHA, RTOL = [[1.3, 0.7]], [1.0], 0.05, 1e-8
SHOWN = (1e-1, 1e-2, 1e-4)
EPSILONS = np.geomspace(1e-4, 1, 9)


def clock_path(epsilon: float) -> tuple[np.ndarray, ...]:
    """s, q and both dominating weights at every accepted step of the clock."""
    problem = jms.Problem(X, Y)
    batch = as_blocks(problem, jms.SmoothedSign(epsilon), jnp.asarray(ALPHA), 2)
    block = jax.tree.map(lambda leaf: leaf[0], batch.blocks)
    clock = Clock(block)
    solved = integrate(
        clock,
        diffrax.Dopri8(),
        0.0,
        1.0,
        block.start(),
        RTOL / 3,
        256,
        saveat=diffrax.SaveAt(t0=True, steps=True),
    )
    taken = np.isfinite(np.asarray(solved.ts))
    s = np.asarray(solved.ts)[taken]
    q = np.array([clock.residual(one)[0] for one in s])
    return s, q, np.asarray(solved.ys[0])[taken] * float(batch.units.weight[0])


def steps_in_time(epsilon: float) -> int:
    """Steps of an explicit method on (12) in t, up to a residual of 1e-8."""
    x, y = jnp.asarray(X[0]), Y[0]

    def residual(weights):
        u, v = weights
        return jnp.sum(x * (u**2 - v**2)) - y

    def field(t, weights, args):
        u, v = weights
        c = x * residual(weights)
        return -c * u / (jnp.abs(c * u) + epsilon), c * v / (jnp.abs(c * v) + epsilon)

    def done(t, weights, args, **_):
        return jnp.abs(residual(weights)) <= 1e-8

    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        1e6,
        None,
        (jnp.full(2, ALPHA),) * 2,
        stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=RTOL),
        event=diffrax.Event(done),
        max_steps=2_000_000,
        throw=False,
        adjoint=diffrax.ForwardMode(),
    )
    return int(solved.stats["num_steps"])


def steps_of_clock(epsilon: float) -> int:
    """Steps of `solve_limit`."""
    limit = jms.solve_limit(jms.Problem(X, Y), jms.SmoothedSign(epsilon), ALPHA, rtol=RTOL)
    return int(limit.stats["num_steps"][0])


def draw(numbers: dict) -> Figure:
    """The residual in time; the weights on the clock, every step marked; steps over ε."""
    figure = Figure(figsize=(6.75, 2.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for i, (epsilon, (ts, q), (s, weights)) in enumerate(numbers["paths"]):
        style = {"color": _COLORS[i], "ls": _DASHES[i]}
        left.semilogy(ts, q, label=rf"$\varepsilon = {epsilon:g}$", **style)
        middle.plot(s, weights, marker=_MARKERS[i], ms=2.2, lw=0.9, **style)
    left.set(xlabel="time $t$", ylabel="residual $q$", ylim=(1e-6, 2), xlim=(0, 1.7))
    middle.set(xlabel="clock $s$", ylabel="weights $w_1 > w_2$", xlim=(0, 1))
    right.loglog(EPSILONS, numbers["time"], "s-", ms=3, color=_COLORS[3], label="in time")
    right.loglog(EPSILONS, numbers["clock"], "o-", ms=3, color=_COLORS[0], label="on the clock")
    right.set(xlabel=r"$\varepsilon$", ylabel="solver steps", ylim=(5, None))
    left.legend(loc="upper right")
    right.legend(loc="upper right")
    return figure


def main() -> None:
    """Solve, draw, and print the numbers of the third panel."""
    jax.config.update("jax_enable_x64", True)
    paths = []
    for epsilon in SHOWN:
        flow = jms.solve_trajectory(jms.Problem(X, Y), jms.SmoothedSign(epsilon), ALPHA)
        s, _, weights = clock_path(epsilon)
        paths.append((epsilon, (flow.ts, np.abs(flow.residual[:, 0])), (s, weights)))
    numbers = {
        "paths": paths,
        "time": [steps_in_time(epsilon) for epsilon in EPSILONS],
        "clock": [steps_of_clock(epsilon) for epsilon in EPSILONS],
    }
    for row in zip(EPSILONS, numbers["time"], numbers["clock"], strict=True):
        print("epsilon {:.1e}: {} steps in time, {} on the clock".format(*row))
    save_plot(lambda: draw(numbers), str(Path(__file__).parents[1] / "figures" / "clock.png"))


if __name__ == "__main__":
    main()
