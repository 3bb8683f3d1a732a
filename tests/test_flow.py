"""Trajectories in time against the SciPy reference, and what the source says of them."""

import time
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

from jaxmd_sign import (
    RESULTS,
    AdamFlow,
    GradientDescent,
    Problem,
    SmoothedSign,
    solve_limit,
    solve_trajectory,
)
from jaxmd_sign._mirror import PowerPotential, mirror_map

EPSILONS, ALPHAS = (1e-8, 1e-4, 1e-2, 0.3), (1e-3, 0.05, 0.2)
# Blocks of 3 and 2 columns with both signs, permuted, and two dead columns (2 and 5).
COLUMNS = [[6, 0, 3], [4, 1]]
X = np.zeros((2, 7))
X[0, COLUMNS[0]] = 1.3, -0.7, 0.4
X[1, COLUMNS[1]] = -0.8, 0.6
Y = np.array([1.0, -2.0])
DEAD = ~np.any(X != 0, axis=0)
BLOCKS = Problem(X, Y)
OTHER = BLOCKS.with_data(np.where(X != 0, 0.9 - 0.3 * X**2, 0), np.array([-0.3, 1.2]))
# 200 times that see every stage, from far below T1 at alpha = 1e-3 to far beyond t_end.
TS = np.sort(np.concatenate([[0, 1e5], np.geomspace(1e-5, 1e3, 98), np.linspace(1e-3, 3, 100)]))
SOME = np.arange(0, 199, 11)

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def flow(problem, epsilon, alpha, ts, **options):
    """One compiled program for every block problem here, and one for every general X."""
    return solve_trajectory(problem, SmoothedSign(epsilon), alpha, ts=ts, **options)


@jax.jit
def gradient_flow(problem, alpha, ts):
    return solve_trajectory(problem, GradientDescent(), alpha, ts=ts)


def dominating(problem, path):
    """w, omega and the sizes of their gradients, over the columns of X."""
    up = np.asarray(problem.X.T @ problem.y) >= 0
    gradients = np.abs(path.gradient_u), np.abs(path.gradient_v)
    return [np.where(up, *pair) for pair in ((path.u, path.v), (path.v, path.u))] + [
        np.where(up, *pair) for pair in (gradients, gradients[::-1])
    ]


@pytest.fixture(scope="module", params=ALPHAS, ids="alpha={}".format)
def alpha(request):
    return request.param


@pytest.fixture(scope="module", params=EPSILONS, ids="epsilon={}".format)
def epsilon(request):
    return request.param


@pytest.fixture(scope="module")
def case(epsilon, alpha):
    """A trajectory and, block by block, the truth at some of its times."""
    problem = BLOCKS if alpha != 0.2 else OTHER
    values, labels = np.asarray(problem.X), np.asarray(problem.y)
    truth = [
        ref.block_trajectory(values[row, columns], labels[row], epsilon, alpha, TS[SOME])
        for row, columns in enumerate(COLUMNS)
    ]
    return problem, flow(problem, epsilon, alpha, TS), truth


def test_weights_residual_and_gradients(case, epsilon, alpha):
    problem, path, truth = case
    assert path.result == RESULTS.successful
    values, labels = np.asarray(problem.X), np.asarray(problem.y)
    u, v = np.full((2, SOME.size, 7), alpha)
    for columns, block in zip(COLUMNS, truth, strict=True):
        u[:, columns], v[:, columns] = block.u, block.v
    beta = u**2 - v**2
    residual = beta @ values.T - labels
    c = residual @ values
    side = np.sign(values.T @ labels)
    expected = {
        "u": u,
        "v": v,
        "beta": beta,
        "dual": side * np.maximum(u, v),
        "residual": residual,
        "gradient_u": c * u,
        "gradient_v": -c * v,
    }
    for name, value in expected.items():
        found = getattr(path, name)
        assert found.shape == (200, value.shape[1])
        np.testing.assert_allclose(found[SOME], value, rtol=0, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(path.ts, TS)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize(("epsilon", "alpha"), [(3.5, 0.014), (0.9, 0.0066), (0.05, 0.002)])
def test_values_between_steps_are_as_good_as_steps(epsilon, alpha, rtol):
    """Where gradients below ε let weights grow for long, steps are long."""
    x, y, ts = np.array([0.33, -0.57]), -0.97, np.linspace(0, 40, 60)
    truth = ref.block_trajectory(x, y, epsilon, alpha, ts)
    path = flow(Problem(x[None], [y]), epsilon, alpha, ts, rtol=rtol)
    for found, expected in ((path.u, truth.u), (path.v, truth.v)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * rtol)


def test_stage_ends(case):
    _, path, truth = case
    for columns, block in zip(COLUMNS, truth, strict=True):
        T1, T2 = np.asarray(path.warmup_end)[columns], np.asarray(path.sign_end)[columns]
        np.testing.assert_array_equal(T1, T1[0])
        np.testing.assert_allclose(T1, block.warm_up_end, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(T2, block.sign_stage_ends, rtol=1e-8, atol=1e-8)
        assert np.all((T2 == 0) == (block.sign_stage_ends == 0))
        assert np.all((T1 == 0) == (block.warm_up_end == 0))
    np.testing.assert_array_equal(path.warmup_end[DEAD], 0)
    np.testing.assert_array_equal(path.sign_end[DEAD], 0)


def test_later_times_hold_the_limit(case, epsilon, alpha):
    problem, path, _ = case
    late = np.asarray(path.ts) > path.t_end
    assert late[-1] and not late[0]
    for leaf in (path.u, path.v, path.beta, path.dual, path.residual):
        held = np.asarray(leaf)[late]
        np.testing.assert_array_equal(held, np.broadcast_to(held[-1], held.shape))
    limit = limit_beta(problem, epsilon, alpha)
    # Two routes, each with a global error of a few of its tolerance of 1e-8 a step.
    np.testing.assert_allclose(path.beta[-1], limit, rtol=0, atol=3e-8)
    assert np.max(np.abs(path.residual[-1])) < 1e-9
    assert path.t_end >= np.max(path.sign_end) and path.t_end >= np.max(path.warmup_end)


@jax.jit
def limit_beta(problem, epsilon, alpha):
    return solve_limit(problem, SmoothedSign(epsilon), alpha).beta


def test_stages_do_not_depend_on_the_times_saved(case, epsilon, alpha):
    problem, path, _ = case
    coarse = flow(problem, epsilon, alpha, np.linspace(0, 1e-3, 200) ** 3)
    for name in ("warmup_end", "sign_end", "t_end"):
        np.testing.assert_allclose(
            getattr(coarse, name), getattr(path, name), rtol=1e-12, atol=0, err_msg=name
        )


def test_properties_along_the_flow(case, alpha):
    """Prop 3.4 and u v < alpha^2, up to the tolerance of the solver."""
    problem, path, _ = case
    w, omega, _, _ = dominating(problem, path)
    w, omega = w[:, ~DEAD], omega[:, ~DEAD]
    assert np.min(omega) >= 0
    assert np.min(w - omega) >= -1e-15  # both are alpha at the start, up to rounding
    assert np.min(np.diff(w, axis=0)) >= -1e-8
    assert np.max(np.diff(omega, axis=0)) <= 1e-8
    assert np.max(w * omega / alpha**2) <= 1 + 1e-8
    assert np.max((w * omega)[50:] / alpha**2) < 1


def test_first_time_is_the_start(case, alpha):
    problem, path, _ = case
    np.testing.assert_allclose(path.u[0], np.full(7, alpha), rtol=1e-15)
    np.testing.assert_allclose(path.v[0], np.full(7, alpha), rtol=1e-15)
    np.testing.assert_allclose(path.beta[0], np.zeros(7), rtol=0, atol=1e-14 * alpha**2)
    side = np.sign(problem.X.T @ problem.y)
    np.testing.assert_allclose(path.dual[0], side * alpha, rtol=1e-15)
    np.testing.assert_allclose(path.residual[0], -problem.y, rtol=1e-14)


@pytest.mark.parametrize("rule", [SmoothedSign(0.1), GradientDescent(), AdamFlow(0.1, 0.01, 0.01)])
def test_labels_0_of_any_X_stay_at_the_start(rule):
    path = solve_trajectory(Problem([[1.3, 0.7], [0.2, 0.9]], [0.0, 0.0]), rule, 0.3, ts=[0, 1])
    assert path.result == RESULTS.successful
    np.testing.assert_array_equal(path.u, np.full((2, 2), 0.3))
    np.testing.assert_array_equal(path.beta, 0)


def test_dead_columns_and_label_zero_stay_at_the_start():
    problem = BLOCKS.with_data(X, np.array([0.0, -2.0]))
    path = flow(problem, 1e-2, 0.05, TS)
    assert path.result == RESULTS.successful
    still = DEAD | (X[0] != 0)
    np.testing.assert_array_equal(path.u[:, still], 0.05)
    np.testing.assert_array_equal(path.v[:, still], 0.05)
    for leaf in (path.beta, path.dual, path.gradient_u, path.gradient_v):
        np.testing.assert_array_equal(leaf[:, still], 0)
    np.testing.assert_array_equal(path.residual[:, 0], 0)
    np.testing.assert_array_equal(path.sign_end[still], 0)
    np.testing.assert_array_equal(path.warmup_end[still], 0)
    alone = flow(BLOCKS, 1e-2, 0.05, TS)
    np.testing.assert_array_equal(path.u[:, X[1] != 0], alone.u[:, X[1] != 0])


@pytest.mark.parametrize("epsilon", [1e-2, 0.3])
def test_dual_dynamics_at_saved_states(epsilon):
    """(14): the jvp of the mirror map along the velocities of beta and delta."""
    path = flow(BLOCKS, epsilon, 0.05, TS)
    moving = np.flatnonzero(np.max(np.abs(path.residual), axis=1) > 1e-6)[1:]
    assert moving.size > 100
    live = np.flatnonzero(~DEAD)

    def velocity(gradient):
        return -gradient / (jnp.abs(gradient) + epsilon)

    u, v, gradient_u, gradient_v, dual = (
        leaf[moving][:, live]
        for leaf in (path.u, path.v, path.gradient_u, path.gradient_v, path.dual)
    )
    beta_rate = 2 * u * velocity(gradient_u) - 2 * v * velocity(gradient_v)
    omega, rate = jnp.minimum(u, v), jnp.where(u < v, velocity(gradient_u), velocity(gradient_v))

    def theta(beta, delta):
        return mirror_map(PowerPotential(delta), beta)

    value, dual_rate = jax.vmap(lambda *args: jax.jvp(theta, args[:2], args[2:]))(
        u**2 - v**2, omega**2, beta_rate, 2 * omega * rate
    )
    c = (path.residual @ X)[moving][:, live]
    np.testing.assert_allclose(value, dual, atol=1e-14)
    np.testing.assert_allclose(
        dual_rate, -c * np.abs(dual) / (np.abs(c * dual) + epsilon), atol=1e-11
    )


@pytest.mark.parametrize("epsilon", [1e-2, 0.3])
def test_dual_dynamics_by_differences_in_time(epsilon):
    """(14) once more, with the rate from neighbouring saved times."""
    step = 1e-3
    centres = np.linspace(0.01, 2.0, 40)
    stencil, weights = np.array([-2, -1, 0, 1, 2]), np.array([1, -8, 0, 8, -1]) / 12
    path = flow(BLOCKS, epsilon, 0.05, (centres[:, None] + step * stencil).ravel())
    dual = np.asarray(path.dual).reshape(40, 5, 7)
    rate = np.einsum("tsd,s->td", dual, weights) / step
    c = (np.asarray(path.residual) @ X).reshape(40, 5, 7)[:, 2]
    middle = np.abs(dual[:, 2])
    # 1e-8 of the solver over the step.
    np.testing.assert_allclose(rate, -c * middle / (np.abs(c) * middle + epsilon), atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_descent_conserves_the_product_of_the_weights(alpha):
    path = gradient_flow(BLOCKS, alpha, TS)
    assert path.result == RESULTS.successful
    # The growing weight is held to an absolute tolerance, so the product to that over alpha.
    np.testing.assert_allclose(path.u * path.v / alpha**2, np.ones((200, 7)), atol=1e-7 / alpha)
    u, v = ref.gd_trajectory(X, Y, alpha, TS[SOME])
    # Weights grow exponentially, and an early error with them, by up to w / alpha; so below, too.
    np.testing.assert_allclose(path.u[SOME], u, rtol=0, atol=1e-6)
    np.testing.assert_allclose(path.v[SOME], v, rtol=0, atol=1e-6)
    np.testing.assert_allclose(path.dual, np.arcsinh(path.beta / 2 / alpha**2) / 2, atol=1e-12)
    limit = solve_limit(BLOCKS, GradientDescent(), alpha)
    np.testing.assert_allclose(limit.beta, ref.gd_limit(X, Y, alpha), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        path.beta[-1], limit.beta, rtol=0, atol=1e-6 if alpha < 0.01 else 1e-7
    )
    assert np.all(np.isnan(path.warmup_end)) and np.all(np.isnan(path.sign_end))


def test_without_times_there_are_201_up_to_the_end():
    path = solve_trajectory(BLOCKS, SmoothedSign(0.01), 0.05)
    np.testing.assert_allclose(path.ts, np.linspace(0, path.t_end, 201), rtol=1e-15)
    given = flow(BLOCKS, 0.01, 0.05, TS)
    for name in ("warmup_end", "sign_end", "t_end"):
        np.testing.assert_allclose(getattr(path, name), getattr(given, name), rtol=1e-12)
    np.testing.assert_allclose(path.beta[-1], given.beta[-1], rtol=0, atol=1e-9)
    assert np.max(np.abs(path.residual[-1])) < 1e-9
    for row, columns in enumerate(COLUMNS):
        truth = ref.block_trajectory(X[row, columns], Y[row], 0.01, 0.05, path.ts[::20])
        np.testing.assert_allclose(path.u[::20][:, columns], truth.u, rtol=0, atol=1e-7)


GENERAL = [
    Problem(rng.normal(size=(5, 12)), rng.normal(size=5))
    for rng in map(np.random.default_rng, [0, 1])
]
GENERAL_TS = np.sort(np.concatenate([[0.0], np.geomspace(1e-4, 20, 99), np.linspace(1e-2, 2, 100)]))


@pytest.mark.parametrize("problem", GENERAL, ids=["seed 0", "seed 1"])
def test_general_data(problem):
    epsilon, alpha = 0.05, 0.1
    path = flow(problem, epsilon, alpha, GENERAL_TS)
    assert path.result == RESULTS.successful
    u, v = ref.general_trajectory(problem.X, problem.y, epsilon, alpha, GENERAL_TS[SOME])
    np.testing.assert_allclose(path.u[SOME], u, rtol=0, atol=1e-6)
    np.testing.assert_allclose(path.v[SOME], v, rtol=0, atol=1e-6)
    residual = (u**2 - v**2) @ np.asarray(problem.X).T - np.asarray(problem.y)
    np.testing.assert_allclose(path.residual[SOME], residual, rtol=0, atol=3e-6)
    side = np.where(u == v, np.sign(problem.X.T @ problem.y), np.sign(u - v))
    np.testing.assert_allclose(path.dual[SOME], side * np.maximum(u, v), rtol=0, atol=1e-6)
    # At the ends of the stages the gradients are epsilon, and later they are below.
    ends = np.append(np.asarray(path.sign_end), path.warmup_end[0])
    order = np.argsort(ends)
    assert np.all(path.warmup_end == path.warmup_end[0]) and ends[-1] > 0
    times = np.concatenate([ends[order], ends[order][-1] + np.linspace(0.1, 50, 187)])
    at = flow(problem, epsilon, alpha, times)
    weights = np.stack([at.u, at.v])
    gradients = np.abs(np.stack([at.gradient_u, at.gradient_v]))
    small = np.where(weights[0] < weights[1], gradients[0], gradients[1])
    large = np.where(weights[0] < weights[1], gradients[1], gradients[0])
    where = np.argsort(order)
    for column in range(12):
        if ends[column] == 0:
            assert np.all(large[:, column] <= epsilon * (1 + 1e-6))
        else:
            assert large[where[column], column] == pytest.approx(epsilon, rel=1e-5)
            assert np.all(large[times > ends[column] + 1e-3, column] < epsilon)
    assert np.max(small[where[12]]) == pytest.approx(epsilon, rel=1e-5)


BAD = {17: -1.0, 500: np.nan, 999: 0.0}


@pytest.fixture(scope="module")
def thousand():
    """The claim of the package: 1,000 (epsilon, alpha) and 200 saved times in one vmap.

    The loop to compare it with runs over 60 of the 1,000, drawn at random, to save time. Three
    have an epsilon that is not usable.
    """
    rng = np.random.default_rng(11)
    epsilons = np.exp(rng.uniform(np.log(1e-6), np.log(0.3), 1000))
    alphas = np.exp(rng.uniform(np.log(1e-3), np.log(0.2), 1000))
    epsilons[list(BAD)] = list(BAD.values())
    together = jax.jit(jax.vmap(partial(flow, BLOCKS), in_axes=(0, 0, None)))
    seconds = {}
    start = time.perf_counter()
    program = together.lower(epsilons, alphas, TS).compile()
    seconds["compilation"] = time.perf_counter() - start
    start = time.perf_counter()
    paths = jax.block_until_ready(program(epsilons, alphas, TS))
    seconds["1000 at once"] = time.perf_counter() - start
    members = rng.choice(np.delete(np.arange(1000), list(BAD)), 60, replace=False)
    start = time.perf_counter()
    singles = [
        jax.block_until_ready(flow(BLOCKS, epsilons[member], alphas[member], TS))
        for member in members
    ]
    seconds["60 single solves"] = time.perf_counter() - start
    singles = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    return paths, jax.tree.map(lambda leaf: leaf[members], paths), singles, seconds


@pytest.mark.slow
def test_a_thousand_at_once_equal_single_solves(thousand, record_property):
    paths, some, singles, seconds = thousand
    steps = np.asarray(paths.stats["num_steps"])
    record_property("seconds", {k: float(v) for k, v in seconds.items()})
    record_property("steps_median_max", (float(np.median(steps)), int(np.max(steps))))
    assert paths.u.shape == (1000, 200, 7) and steps.shape == (1000, 2)
    for name in ("u", "v", "beta", "dual", "warmup_end", "sign_end"):
        difference = np.max(np.abs(getattr(some, name) - getattr(singles, name)))
        record_property(f"worst_{name}", float(difference))
        assert difference < 1e-8, name
    # t_end is where a step ends, and the length of steps enlarges rounding errors.
    np.testing.assert_allclose(some.t_end, singles.t_end, rtol=1e-3)


@pytest.mark.parametrize("name", ["residual", "gradient_u", "gradient_v"])
def test_residuals_and_gradients_of_a_thousand_equal_single_solves(thousand, name, record_property):
    _, some, singles, _ = thousand
    difference = np.max(np.abs(getattr(some, name) - getattr(singles, name)))
    record_property("worst", float(difference))
    assert difference < 1e-8


def test_unusable_members_of_a_thousand_fail_alone(thousand):
    paths, *_ = thousand
    failed = np.isin(np.arange(1000), list(BAD))
    np.testing.assert_array_equal(paths.result != RESULTS.successful, failed)
    for member in BAD:
        code = jax.tree.map(lambda leaf, i=member: leaf[i], paths.result)
        assert code == RESULTS.bad_input
    for name in ("u", "v", "beta", "dual", "residual", "warmup_end", "sign_end", "t_end"):
        values = np.asarray(getattr(paths, name))
        assert np.all(np.isnan(values[failed])), name
        assert np.all(np.isfinite(values[~failed])), name


TIMES = np.array([0.02, 0.3, 0.8, 2.0])


@jax.jit
def both_jacobians(epsilon, alpha):
    def outputs(epsilon, alpha):
        path = solve_trajectory(BLOCKS, SmoothedSign(epsilon), alpha, ts=TIMES)
        return {"beta": path.beta, "T1": path.warmup_end, "T2": path.sign_end}

    return [
        jacobian(outputs, argnums=(0, 1))(epsilon, alpha) for jacobian in (jax.jacfwd, jax.jacrev)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_derivatives_in_epsilon_and_alpha(epsilon):
    alpha = 0.05
    forward, reverse = both_jacobians(epsilon, alpha)
    for row, columns in enumerate(COLUMNS):

        def truth(argument, log, row=row, columns=columns):
            values = [epsilon, alpha]
            values[argument] *= np.exp(log)
            block = ref.block_trajectory(X[row, columns], Y[row], *values, TIMES)
            side = np.sign(X[row, columns] * Y[row])
            u, v = block.u, block.v
            assert np.all(side * (u - v) >= 0)
            stages = np.broadcast_to(block.warm_up_end, side.shape), block.sign_stage_ends
            return np.vstack([u**2 - v**2, *stages])

        for argument, value in enumerate((epsilon, alpha)):
            expected, error = ref.derivative(partial(truth, argument), 0.0, step=0.05, levels=4)
            assert np.max(error) < 1e-6
            found = np.vstack(
                [forward[name][argument][..., columns] for name in ("beta", "T1", "T2")]
            )
            # By log epsilon and log alpha, so that all are of the size of the values.
            np.testing.assert_allclose(value * found, expected, rtol=1e-5, atol=1e-6)
    for name in forward:
        for there, back in zip(forward[name], reverse[name], strict=True):
            np.testing.assert_allclose(there, back, rtol=1e-10, atol=1e-10)
            assert np.all(np.isfinite(there))


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Kvaerno5()], ids=["Tsit5", "Kvaerno5"])
def test_other_solvers_agree(solver):
    default = flow(BLOCKS, 0.01, 0.05, TS)
    path = flow(BLOCKS, 0.01, 0.05, TS, solver=solver)
    assert path.result == RESULTS.successful
    for name in ("u", "v", "beta", "dual", "residual", "warmup_end", "sign_end"):
        np.testing.assert_allclose(
            getattr(path, name), getattr(default, name), rtol=0, atol=3e-7, err_msg=name
        )


def test_too_few_steps_are_a_result_with_a_sentence():
    path = flow(BLOCKS, 0.01, 0.05, TS, max_steps=3)
    assert path.result == RESULTS.max_steps_reached
    assert "max_steps" in RESULTS[path.result]
    for name in ("u", "v", "beta", "dual", "residual", "gradient_u", "warmup_end", "t_end"):
        assert np.all(np.isnan(getattr(path, name)))


def test_throw_raises():
    with pytest.raises(Exception, match="maximum number of solver steps"):
        flow(BLOCKS, 0.01, 0.05, TS, max_steps=3, throw=True)


@pytest.mark.parametrize(
    "ts", [np.array([-1.0, 0.0]), np.array([1.0, 0.5]), np.array([0, np.nan]), np.ones((2, 2)),
           np.array([0, np.inf]), np.array([]), np.array(1.0), np.array(["now"])]
)  # fmt: skip
def test_bad_times_name_their_argument(ts):
    with pytest.raises(ValueError, match="ts must"):
        solve_trajectory(BLOCKS, SmoothedSign(0.01), 0.05, ts=ts)


def test_bad_traced_times_fail_alone():
    rows = np.array([[0.0, 1.0], [-1.0, 0.0], [1.0, 0.5], [0.0, np.nan], [0.0, np.inf]])
    paths = jax.vmap(lambda ts: flow(BLOCKS, 0.01, 0.05, ts))(rows)
    good = np.arange(len(rows)) == 0
    np.testing.assert_array_equal(paths.result == RESULTS.successful, good)
    np.testing.assert_array_equal(paths.result == RESULTS.bad_input, ~good)
    np.testing.assert_array_equal(np.isfinite(paths.u).all(axis=(1, 2)), good)
    np.testing.assert_array_equal(np.isnan(paths.u).all(axis=(1, 2)), ~good)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"rtol": 1e-15}, "rtol"), ({"atol": -1.0}, "atol"), ({"max_steps": 0}, "max_steps")],
)
def test_bad_options_name_their_argument(options, name):
    with pytest.raises(ValueError, match=name):
        solve_trajectory(BLOCKS, SmoothedSign(0.01), 0.05, **options)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, np.ones(3), np.ones((7, 1))], ids=str)
def test_bad_epsilon_and_alpha_name_their_argument(bad):
    with pytest.raises(ValueError, match="epsilon"):
        solve_trajectory(BLOCKS, SmoothedSign(bad), 0.05)
    with pytest.raises(ValueError, match="alpha"):
        solve_trajectory(BLOCKS, SmoothedSign(0.1), bad)


def test_float32():
    problem = Problem(X.astype(np.float32), Y.astype(np.float32))
    path = flow(problem, 0.01, 0.05, TS)
    truth = flow(BLOCKS, 0.01, 0.05, TS)
    assert path.result == RESULTS.successful
    for name in ("ts", "u", "v", "beta", "dual", "residual", "gradient_u", "gradient_v",
                 "warmup_end", "sign_end", "t_end"):  # fmt: skip
        assert getattr(path, name).dtype == np.float32, name
    for name in ("u", "v", "beta", "dual", "residual", "warmup_end", "sign_end"):
        np.testing.assert_allclose(
            getattr(path, name), getattr(truth, name), rtol=0, atol=1e-4, err_msg=name
        )


def test_one_compilation_while_values_change():
    """Without a jit of the caller's own."""

    def solve(epsilon, alpha, scale):
        problem = BLOCKS.with_data(scale * X, Y / scale)
        return jax.block_until_ready(flow(problem, epsilon, alpha, scale * TS))

    other = Problem(np.roll(X, 1, axis=1)[::-1], Y)  # small programs of its own
    solve(0.1, 0.05, 1.0)
    before = len(compiled)
    for values in [(1e-4, 0.01, 2.0), (3.0, 0.2, 0.3), (1e-7, 1e-3, 0.7)]:
        solve(*values)
    # Another pattern of the same padded sizes.
    jax.block_until_ready(flow(other, 0.02, 0.1, TS))
    assert len(compiled) == before


def test_a_first_step_that_overflows_is_shortened():
    problem = Problem([[1.0]], [1.0])
    flow = solve_trajectory(problem, SmoothedSign(0.0175), 5.32, depth=3)
    assert flow.result == RESULTS.successful
    limit = solve_limit(problem, SmoothedSign(0.0175), 5.32, depth=3)
    # β is the difference of two cubes of about α³ = 150.
    assert float(flow.beta[-1, 0]) == pytest.approx(float(limit.beta[0]), abs=1e-7 * 5.32**3)


def test_a_number_inside_a_schedule_has_no_derivative():
    """One line, rather than a derivative that leaves it out."""

    def end(c):
        rule = SmoothedSign(lambda t: c * jnp.exp(-t) + 0.01)
        return solve_trajectory(Problem([[1.3, 0.7]], [1.0]), rule, 0.05, ts=[0, 1]).beta[-1, 0]

    with pytest.raises(ValueError, match="take differences for that number"):
        jax.grad(end)(0.1)
