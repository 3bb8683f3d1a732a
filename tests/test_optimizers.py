"""Discrete time: smoothed_sign as optax expects it, training, Adam's flow and the study."""

import inspect
import json
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._limit import limit_of_weights
from jaxmd_sign._mirror import mirror_map
from jaxmd_sign._optimizers import _study, _train
from jaxmd_sign._optimizers._names import OPTIMIZERS, make_optimizer
from jaxmd_sign._solve import Outcome

X, Y, ALPHA = np.array([[1.3, 0.7, 0, 0], [0, 0, 0.5, -1.1]]), np.array([1.0, -0.8]), 0.05
SMOOTHINGS = {
    "abs": lambda z: z / (1 + abs(z)),
    "sqrt": lambda z: z / np.sqrt(1 + z**2),
    "tanh": np.tanh,
    "clip": lambda z: np.clip(z, -1, 1),
}


@pytest.fixture(scope="module")
def blocks():
    return jms.Problem(X, Y)


TS = np.linspace(0, 0.9, 10)[1:]


@pytest.fixture(scope="module")
def flow(blocks):
    """Smoothed sign descent in continuous time, ε = 0.1, at the times TS."""
    return jms.solve_trajectory(blocks, jms.SmoothedSign(0.1), ALPHA, ts=TS, rtol=1e-10)


def codes(result):
    return np.asarray(result._value)


def code(name):
    return int(getattr(jms.RESULTS, name)._value)


def ulps(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.max(np.abs(a - b) / np.spacing(np.abs(b)))


# smoothed_sign


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_is_adam_without_memory_to_two_ulp(dtype):
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(-12, 3, 20_000)
    g = jnp.asarray((rng.choice([-1, 1], size.size) * size).astype(dtype))
    for epsilon in (1e-8, 1e-4, 0.1, 10.0):
        ours, theirs = jms.smoothed_sign(1e-3, epsilon), optax.adam(1e-3, b1=0, b2=0, eps=epsilon)
        state = theirs.init(g)
        for _ in range(3):  # the bias correction of Adam must not show at any step
            want, state = jax.jit(theirs.update)(g, state)
            got, _ = jax.jit(ours.update)(g, ours.init(g))
            assert got.dtype == dtype and ulps(got, want) <= 2


def test_agrees_with_adam_along_a_run(blocks):
    run = jms.train(blocks, jms.smoothed_sign(1e-2, 0.05), ALPHA, 200, record_every=1)
    u, v = run.history.u, run.history.v
    c = (run.history.beta @ X.T - Y) @ X
    for g in (c * u, -c * v):
        ours, theirs = jms.smoothed_sign(1e-2, 0.05), optax.adam(1e-2, b1=0, b2=0, eps=0.05)
        want, _ = theirs.update(g, theirs.init(g))
        assert ulps(ours.update(g, ours.init(g))[0], want) <= 2


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_update_is_phi_of_g_over_epsilon(smoothing):
    g = np.array([-3.0, -0.1, -1e-9, 0.0, 1e-3, 0.2, 50.0])
    optimizer = jms.smoothed_sign(0.3, 0.2, smoothing)
    got, _ = optimizer.update(jnp.asarray(g), optimizer.init(g))
    np.testing.assert_allclose(got, -0.3 * SMOOTHINGS[smoothing](g / 0.2), rtol=1e-14)


@pytest.mark.parametrize("smoothing", [*SMOOTHINGS, jnp.arctan])
def test_derivatives_at_zero_gradient_are_finite(smoothing):
    optimizer = jms.smoothed_sign(0.3, 0.2, smoothing)

    def update(g):
        return optimizer.update(g, optimizer.init(g))[0]

    first, second = jax.grad(update), jax.grad(jax.grad(update))
    assert np.isclose(first(0.0), -0.3 / 0.2) and np.isfinite(second(0.0))
    adam = optax.adam(0.3, b1=0, b2=0, eps=0.2)
    assert np.isnan(jax.grad(lambda g: adam.update(g, adam.init(g))[0])(0.0))  # why it is not Adam


TREE = {
    "a": jnp.ones((2, 3), jnp.float32),
    "b": (jnp.zeros((), jnp.float64), None, [jnp.ones(4, jnp.bfloat16)]),
}


@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.1, 0.0, 10)])
def test_contract_of_optax(rate):
    optimizer, traces = jms.smoothed_sign(rate, 0.5), []
    state = optimizer.init(TREE)

    @jax.jit
    def step(updates, state, params):
        traces.append(1)
        updates, state = optimizer.update(updates, state, params)
        return optax.apply_updates(params, updates), updates, state

    params, updates, after = step(TREE, state, TREE)
    params, updates, after = step(updates, after, params)
    assert len(traces) == 1  # the state keeps its structure, shapes and dtypes
    for tree in (params, updates):
        assert jax.tree.structure(tree) == jax.tree.structure(TREE)
        for leaf, like in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
            assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_learning_rate_schedule():
    schedule = optax.piecewise_constant_schedule(0.4, {1: 0.5})
    optimizer, g = jms.smoothed_sign(schedule, 1.0), jnp.array([1.0])
    state, seen = optimizer.init(g), []
    for _ in range(3):
        update, state = optimizer.update(g, state)
        seen.append(float(update[0]))
    np.testing.assert_allclose(seen, [-0.2, -0.1, -0.1])


def test_epsilon_can_be_injected_per_step_and_annealed():
    annealed = optax.inject_hyperparams(jms.smoothed_sign)(
        0.1, epsilon=optax.exponential_decay(1.0, 1, 0.5)
    )
    g = jnp.array([1.0, -2.0])
    state = annealed.init(g)
    for k in range(4):
        update, state = annealed.update(g, state)
        want = -0.1 * np.array([1.0, -2.0]) / (np.array([1.0, 2.0]) + 0.5**k)
        np.testing.assert_allclose(update, want, rtol=1e-6)  # optax keeps it in float32
    state.hyperparams["epsilon"] = jnp.asarray(3.0)
    plain = optax.inject_hyperparams(jms.smoothed_sign)(0.1, epsilon=1.0)
    state = plain.init(g)
    state.hyperparams["epsilon"] = jnp.asarray(3.0)
    update, _ = plain.update(g, state)
    np.testing.assert_allclose(update, [-0.1 / 4, 0.2 / 5], rtol=1e-12)


def test_chains_and_accumulates():
    chain = optax.chain(optax.clip_by_global_norm(1.0), jms.smoothed_sign(0.1, 1.0))
    g = jnp.array([3.0, 4.0])
    update, _ = chain.update(g, chain.init(g))
    np.testing.assert_allclose(update, [-0.1 * 0.6 / 1.6, -0.1 * 0.8 / 1.8])
    every = optax.MultiSteps(jms.smoothed_sign(0.1, 1.0), 2)
    state = every.init(g)
    first, state = every.update(g, state, g)
    second, state = every.update(-g, state, g)
    np.testing.assert_array_equal([first, second], np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1), "learning_rate must be positive"),
        ((0.1, -1.0), "epsilon must be positive"),
        ((0.1, np.nan), "epsilon must be positive"),
        ((0.1, 0.1, "soft"), "smoothing must be one of"),
    ],
)
def test_bad_hyper_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        jms.smoothed_sign(*arguments)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_by_name(name):
    needed = {"epsilon": 0.1} if name == "smoothed_sign" else {}
    g = {"u": jnp.array([0.3, -2.0]), "v": jnp.array([0.0, 1.0])}
    got = make_optimizer(name, 0.1, **needed)
    optax_name = {"sign": "sign_sgd", "smoothed_sign": "adam"}.get(name, name)
    extra = {"b1": 0, "b2": 0, "eps": 0.1} if name == "smoothed_sign" else {}
    want = getattr(optax, optax_name)(0.1, **extra)
    states = got.init(g), want.init(g)
    for _ in range(2):
        updates, states = zip(
            *(o.update(g, s, g) for o, s in zip((got, want), states, strict=True)), strict=True
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), *updates)


# g/(|g| + ε), g/√(g² + ε), and what is like neither; the defaults that docs/optimizers.md gives
OUTSIDE = {"adam": 1e-8, "adamw": 1e-8, "nadam": 1e-8, "amsgrad": 1e-8}
INSIDE = {"rmsprop": 1e-8, "adagrad": 1e-7}
OTHER = {
    "adabelief": 1e-16,
    "adadelta": 1e-6,
    "adafactor": 1e-30,
    "adamax": 1e-8,
    "lamb": 1e-6,
    "radam": 1e-8,
    "yogi": 1e-3,
}


@pytest.mark.parametrize("name", [*OUTSIDE, *INSIDE, *OTHER])
def test_places_and_defaults_of_epsilon_in_the_docs(name):
    parameters = inspect.signature(getattr(optax, name)).parameters
    assert parameters["eps"].default == (OUTSIDE | INSIDE | OTHER)[name]
    page = (Path(jms.__file__).parents[1] / "docs" / "optimizers.md").read_text("utf-8")
    (row,) = (
        line for line in page.splitlines() if line.startswith("| optax") and f"`{name}`" in line
    )
    assert f"| {parameters['eps'].default:.0e} |".replace("e-0", "e-") in row
    if name in OTHER:
        return
    g, epsilon, settings = np.array([0.3, -0.02]), 0.1, {}
    settings |= {"b1": 0, "b2": 0} if "b1" in parameters else {}
    settings |= {"decay": 0} if name == "rmsprop" else {}
    settings |= {"initial_accumulator_value": 0.0} if name == "adagrad" else {}
    settings |= {"weight_decay": 0.0} if name == "adamw" else {}
    optimizer = getattr(optax, name)(1.0, eps=epsilon, **settings)
    update, _ = optimizer.update(jnp.asarray(g), optimizer.init(jnp.zeros(2)), jnp.zeros(2))
    inside, outside = np.sqrt(g**2 + epsilon), np.abs(g) + epsilon
    np.testing.assert_allclose(update, -g / (inside if name in INSIDE else outside), rtol=1e-5)
    place = row.split("|")[3].strip(" *")
    assert place.startswith("inside" if name in INSIDE else "outside")


# train


def by_numpy(X, y, update, alpha, num_steps, depth=2):
    """Weights after each step, by a plain loop; `update(g, step, memory)` gives the move."""
    w, memory = np.full((2, X.shape[1]), alpha), {}
    path = [w]
    for step in range(1, num_steps + 1):
        c = X.T @ (X @ (w[0] ** depth - w[1] ** depth) - y)
        g = np.stack([c, -c]) * w ** (depth - 1)
        w = w + update(g, step, memory)
        path.append(w)
    return np.array(path)


def adam_move(eta, b1, b2, epsilon):
    def move(g, step, memory):
        m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
        p = memory["p"] = b2 * memory.get("p", 0) + (1 - b2) * g**2
        return -eta * m / (1 - b1**step) / (np.sqrt(p / (1 - b2**step)) + epsilon)

    return move


PROBLEMS = {
    "blocks": X,
    "shuffled blocks": X[:, [2, 0, 3, 1]],
    "padded": np.array([[1.3, 0.7, 0, 0], [0, 0, 0.5, 0]]),
    "dense": np.array([[1.3, 0.7, 0.2, 0], [0.4, 0, 0.5, -1.1]]),
}


@pytest.mark.parametrize(("kind", "depth"), [*((kind, 2) for kind in PROBLEMS), ("padded", 3)])
def test_runs_are_those_of_a_plain_loop(kind, depth):
    data = PROBLEMS[kind]
    alphas, epsilons = np.array([0.2, 0.3, 0.25, 0.4]), np.array([0.01, 0.1, 1.0, 10.0])
    runs = {
        # Hyper-parameters are those of their coordinates.
        "of each": (
            jms.smoothed_sign(1e-2, epsilons),
            lambda g, *_: -0.01 * g / (abs(g) + epsilons),
        ),
        "ours": (jms.smoothed_sign(1e-2, 0.1), lambda g, *_: -1e-2 * g / (np.abs(g) + 0.1)),
        "adam": (optax.adam(1e-2, 0.8, 0.9, eps=1e-3), adam_move(1e-2, 0.8, 0.9, 1e-3)),
    }
    for optimizer, move in runs.values():
        run = jms.train(jms.Problem(data, Y), optimizer, alphas, 100, record_every=30, depth=depth)
        path = by_numpy(data, Y, move, alphas, 100, depth)
        np.testing.assert_array_equal(run.history.steps, [0, 30, 60, 90, 100])
        want = path[[0, 30, 60, 90, 100]]
        np.testing.assert_allclose(run.history.u, want[:, 0], rtol=1e-10)
        np.testing.assert_allclose(run.history.v, want[:, 1], rtol=1e-10, atol=1e-13)
        beta = path[-1, 0] ** depth - path[-1, 1] ** depth
        np.testing.assert_allclose(run.beta, beta, rtol=1e-9)
        loss = np.sum((data @ beta - Y) ** 2) / (2 * depth)
        np.testing.assert_allclose(run.loss, loss, rtol=1e-7)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_end_of_a_run_has_its_own_mirror_map(depth):
    problem = jms.Problem([[1.3, -0.7, 0.4, 0.5]], [1.0])
    start, report = jnp.full(4, ALPHA), Outcome.without_steps(jms.RESULTS.successful)
    # All but the first have overshot 0, the last with its larger weight.
    ends = jnp.array([0.9, -0.2, 0.5, -0.6]), jnp.array([0.1, 0.6, -0.3, 0.2])
    limit = limit_of_weights(problem, start, ends, (start, start), depth, report)
    np.testing.assert_allclose(limit.beta, ends[0] ** depth - ends[1] ** depth, rtol=1e-14)
    np.testing.assert_allclose(mirror_map(limit.potential, limit.beta), limit.dual, rtol=1e-14)
    last = -0.2 if depth % 2 else 0.6
    np.testing.assert_allclose(limit.dual, [0.9, -0.6, 0.5, last], rtol=1e-15)


def test_the_dual_of_a_run_is_that_of_the_limit():
    problem = jms.Problem([[1.3, -0.7]], [1.0])
    run = jms.train(problem, jms.smoothed_sign(1e-4, 0.1), ALPHA, 30_000, tol=1e-8)
    limit = jms.solve_limit(problem, jms.SmoothedSign(0.1), ALPHA)
    np.testing.assert_allclose(run.limit.dual, limit.dual, rtol=1e-3)
    np.testing.assert_allclose(run.limit.dual_reference, limit.dual_reference, rtol=1e-12)
    gaps = [float(jms.bregman_gap(problem, end)) for end in (run.limit, limit)]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-2)


def apart(problem, optimizer, count, flow):
    """How far so many steps are from a flow at its nine times."""
    every = int(count) // 9
    run = jms.train(problem, optimizer, ALPHA, int(count), record_every=every)
    return np.max(np.abs(run.history.beta[1:] - flow.beta))


def test_order_one_towards_the_flow_in_time(blocks, flow):
    counts = np.array([90, 270, 900])  # a decade of η
    errors = []
    for count in counts:
        errors.append(apart(blocks, jms.smoothed_sign(0.9 / count, 0.1), count, flow))
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.1, (slope, errors)


def test_order_one_towards_the_limit(blocks):
    limit = jms.solve_limit(blocks, jms.SmoothedSign(0.1), ALPHA)
    rates = np.geomspace(1e-2, 1e-3, 4)
    run = jax.vmap(
        lambda eta: jms.train(blocks, jms.smoothed_sign(eta, 0.1), ALPHA, 20_000, tol=1e-12)
    )(rates)
    assert not codes(run.result).any()
    errors = np.max(np.abs(run.beta - limit.beta), axis=1)
    slope = np.polyfit(np.log(rates), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.1, (slope, errors)
    # and so does what is said of the end
    kkt = jax.vmap(lambda at: jms.kkt(blocks, at).error)(run.limit)
    assert np.all(np.abs(kkt - jms.kkt(blocks, limit).error) < 10 * errors)


def test_sign_descent_oscillates_and_says_so(blocks):
    def last(eta):
        run = jms.train(blocks, optax.sign_sgd(eta), ALPHA, 4000, record_every=1)
        return run.history.beta[-200:] @ X.T - Y, run.result, run.beta

    residual, result, beta = jax.vmap(last)(jnp.array([1e-2, 1e-3]))
    assert np.all(codes(result) == code("not_converged")) and np.all(np.isfinite(beta))
    size = np.max(np.abs(residual), axis=(1, 2))
    assert 0.2 < size[0] / 1e-2 < 10 and 0.2 < size[1] / 1e-3 < 10  # at the scale of η
    sentence = jms.RESULTS[jms.RESULTS.not_converged]
    assert "not converged" in sentence and "smaller" in sentence


def test_passing_zero_is_not_convergence():
    """A run is caught with a small residual while it still moves: that counts as not converged."""
    onward = optax.stateless(lambda g, _: {"u": jnp.full(1, 0.25), "v": jnp.zeros(1)})
    one = jms.Problem([[1.0]], [0.75])  # from u = v = 0.5: β = 0.3125, 0.75, 1.3125
    for num_steps in (2, 3):
        run = jms.train(one, onward, 0.5, num_steps, record_every=1, tol=1e-3)
        assert run.history.loss[2] == 0 and int(run.num_steps) == num_steps
        assert codes(run.result) == code("not_converged")


def test_a_member_that_diverges_is_named_and_the_rest_stands(blocks):
    def run(eta):
        return jms.train(blocks, optax.sgd(eta), ALPHA, 300, record_every=50)

    batch = jax.jit(jax.vmap(run))
    bad, good = batch(jnp.array([0.1, 8.0, 0.3])), batch(jnp.array([0.1, 0.2, 0.3]))
    assert list(codes(bad.result)) == [0, code("diverged"), 0]
    with np.errstate(all="ignore"):
        path = by_numpy(X, Y, lambda g, *_: -8.0 * g, ALPHA, 20)
        loss = np.sum(((path[:, 0] ** 2 - path[:, 1] ** 2) @ X.T - Y) ** 2, axis=1)
        left = int(np.argmax(~(loss <= 1e6 * loss[0])))
    assert list(bad.diverged_at) == [-1, left, -1] and left > 1
    for name in ("beta", "u", "v", "loss"):
        ours, theirs = np.asarray(getattr(bad, name)), np.asarray(getattr(good, name))
        assert np.all(np.isnan(ours[1]))
        np.testing.assert_array_equal(ours[[0, 2]], theirs[[0, 2]])
    np.testing.assert_array_equal(bad.history.beta[::2], good.history.beta[::2])
    assert np.isnan(bad.history.loss[1, 1:]).all() and np.isfinite(bad.history.loss[1, 0])
    assert np.isnan(jax.vmap(lambda at: jms.kkt(blocks, at).error)(bad.limit)[1])


def test_a_member_that_has_converged_waits_unchanged(blocks):
    def run(eta, num_steps=2000):
        return jms.train(
            blocks, jms.smoothed_sign(eta, 0.5), ALPHA, num_steps, record_every=100, tol=1e-4
        )

    batch = jax.vmap(run)(jnp.array([2e-2, 1e-3]))
    alone = run(2e-2)
    stopped = int(batch.num_steps[0])
    assert list(codes(batch.result)) == [0, code("not_converged")]
    assert stopped == int(alone.num_steps) < 2000 and stopped % 100 == 0
    np.testing.assert_allclose(batch.beta[0], alone.beta, rtol=1e-12)
    after = np.asarray(batch.history.loss[0])[stopped // 100 :]
    assert np.all(after == after[0])
    residual = np.linalg.norm(X @ np.asarray(alone.beta) - Y)
    assert 1e-9 < residual <= 1e-4 * np.linalg.norm(Y)  # it stopped, rather than go on to rounding


def test_batches_nest_and_match_single_runs(blocks):
    def run(eta, epsilon, alpha):
        return jms.train(blocks, optax.adam(eta, eps=epsilon), alpha, 50).beta

    etas, epsilons, alphas = np.array([1e-3, 1e-2]), np.array([0.1, 1.0]), np.array([0.05, 0.1])
    rows = jax.vmap(jax.vmap(run, (None, 0, 0)), (0, None, None))(etas, epsilons, alphas)
    for i, j in ((0, 1), (1, 0)):
        single = run(etas[i], epsilons[j], alphas[j])
        np.testing.assert_allclose(rows[i, j], single, rtol=1e-12)


def test_derivatives_of_a_run(blocks):
    def last(epsilon):
        run = jms.train(blocks, jms.smoothed_sign(1e-2, epsilon), ALPHA, 80, tol=1e-9)
        return jnp.sum(run.beta * jnp.arange(1.0, 5.0))

    h = 1e-5
    difference = (last(0.1 + h) - last(0.1 - h)) / (2 * h)
    _, forward = jax.jvp(last, (0.1,), (1.0,))
    np.testing.assert_allclose([forward, jax.grad(last)(0.1)], difference, rtol=1e-7)


def test_smoothed_sign_compiles_once(blocks, monkeypatch):
    traces, step = [], _train._step

    def counted(*args):
        traces.append(1)
        return step(*args)

    monkeypatch.setattr(_train, "_step", counted)
    for eta, epsilon in ((1e-3, 0.1), (1e-2, 0.2), (2e-2, 1.0)):
        jms.train(blocks, jms.smoothed_sign(eta, epsilon), 0.07, 37)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lion(1e-2),
        optax.polyak_sgd(1.0),
        optax.lbfgs(),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2)),
        optax.inject_hyperparams(optax.rmsprop)(1e-2),
    ],
    ids=["lion", "polyak", "lbfgs", "chain", "inject"],
)
def test_any_optimiser_of_optax_runs(optimizer, blocks):
    run = jms.train(blocks, optimizer, ALPHA, 40, record_every=1)
    assert run.loss < 0.7 * run.history.loss[0] and run.beta.dtype == np.float64
    assert np.all(np.isfinite(run.history.beta))


def test_float32():
    problem = jms.Problem(X.astype(np.float32), Y.astype(np.float32))
    run = jms.train(problem, jms.smoothed_sign(1e-2, 0.1), ALPHA, 1000)
    assert {run.beta.dtype, run.history.u.dtype, run.loss.dtype} == {np.dtype(np.float32)}
    want = jms.train(jms.Problem(X, Y), jms.smoothed_sign(1e-2, 0.1), ALPHA, 1000)
    assert codes(run.result) == 0
    np.testing.assert_allclose(run.beta, want.beta, atol=1e-5)


def test_traced_bad_alpha_is_a_code(blocks):
    run = jax.vmap(lambda a: jms.train(blocks, jms.smoothed_sign(1e-2, 0.1), a, 500))(
        jnp.array([0.05, -1.0])
    )
    assert list(codes(run.result)) == [0, code("bad_input")]
    assert np.isfinite(run.beta[0]).all() and np.isnan(run.beta[1]).all()
    assert np.isnan(run.history.loss[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": X}, "problem must be a Problem"),
        ({"optimizer": "adam"}, "optimizer must be an optax.GradientTransformation"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": [0.1, 0.2]}, "alpha must be a scalar or have 4 entries"),
        ({"num_steps": 0}, "num_steps must be a positive whole number"),
        ({"num_steps": 1.5}, "num_steps must be a positive whole number"),
        ({"record_every": -1}, "record_every must be a positive whole number"),
        ({"tol": 0.0}, "tol must be a number between 0 and 1"),
        ({"depth": 9}, "depth must be a whole number from 2 to 8"),
    ],
)
def test_bad_arguments(change, message, blocks, without_type_checks):
    good = {"problem": blocks, "optimizer": optax.sgd(0.1), "alpha": ALPHA, "num_steps": 5}
    with pytest.raises(ValueError, match=message):
        jms.train(**good | change)


# Adam's own flow

EXPLICIT = {"solver": diffrax.Dopri8()}


def adam_flow_by_scipy(x, y, epsilon, tau1, tau2, correct, ts):
    """β(t) of one block by DOP853, from a little after 0, where g is still that of 0."""

    def gradients(w):
        c = x * (x @ (w[:2] ** 2 - w[2:] ** 2) - y)
        return np.concatenate([c, -c]) * w

    def field(t, state):
        w, m, p = np.split(state, 3)
        g = gradients(w)
        up, down = (-np.expm1(-t / tau1), -np.expm1(-t / tau2)) if correct else (1, 1)
        return np.concatenate(
            [
                -m / up / (np.sqrt(np.maximum(p, 0) / down) + epsilon),
                (g - m) / tau1,
                (g**2 - p) / tau2,
            ]
        )

    t0, w = 1e-9, np.full(4, ALPHA)
    g = gradients(w)
    start = np.concatenate([w, g * t0 / tau1, g**2 * t0 / tau2])
    found = solve_ivp(
        field, (t0, ts[-1]), start, "DOP853", t_eval=ts, rtol=1e-11, atol=1e-13, first_step=1e-10
    )
    u, v = found.y[:2], found.y[2:4]
    return (u**2 - v**2).T


@pytest.mark.slow
@pytest.mark.parametrize("correct", [True, False])
def test_adam_flow_tends_to_smoothed_sign_descent(correct, blocks, flow):
    taus = np.array([1e-2, 3e-3, 1e-3])

    def run(tau):
        rule = jms.AdamFlow(0.1, tau, 2 * tau, correct)
        return jms.solve_trajectory(blocks, rule, ALPHA, ts=TS, **EXPLICIT)

    runs = jax.vmap(run)(taus)
    assert not codes(runs.result).any() and np.isnan(runs.sign_end).all()
    for i in (0, 2):
        want = adam_flow_by_scipy(X[0, :2], Y[0], 0.1, taus[i], 2 * taus[i], correct, TS)
        np.testing.assert_allclose(runs.beta[i, :, :2], want, atol=2e-7)
    errors = np.max(np.abs(runs.beta - flow.beta), axis=(1, 2))
    slope = np.polyfit(np.log(taus), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.1, (slope, errors)


@pytest.mark.slow
def test_adam_tends_to_its_flow_at_first_order(blocks):
    flow = jms.solve_trajectory(blocks, jms.AdamFlow(0.1, 0.05, 0.1), ALPHA, ts=TS)
    assert codes(flow.result) == 0
    counts, errors = np.array([450, 4500]), []
    for count in counts:
        eta = 0.9 / count
        b1, b2 = np.exp(-eta / 0.05), np.exp(-eta / 0.1)
        errors.append(apart(blocks, optax.adam(eta, b1, b2, eps=0.1), count, flow))
    slope = np.polyfit(np.log(1 / counts), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.1, (slope, errors)
    want = flow.residual @ X * flow.u
    np.testing.assert_allclose(flow.gradient_u, want, rtol=1e-12, atol=1e-15)


def test_the_dual_of_adams_flow_once_weights_have_crossed_zero():
    # A weight below 0 becomes the larger one in size: by its sign θ had the other weight's.
    problem = jms.Problem([[1.3, 1.0, -2.7, -1.9], [-0.2, -0.4, 0.2, 0.2]], [6.4, -3.3])
    flow = jms.solve_trajectory(
        problem, jms.AdamFlow(0.3, 0.5, 1.0), 0.3, ts=np.linspace(0, 8, 81), rtol=1e-7
    )
    small, large = np.sort(np.abs(np.stack([flow.u, flow.v])), axis=0)
    assert np.sum(large > np.maximum(flow.u, flow.v)) > 10  # else this shows nothing
    want = np.sign(flow.beta) * np.sqrt(np.abs(flow.beta) + small**2)
    np.testing.assert_allclose(flow.dual[1:], want[1:], atol=1e-9)


def test_adam_flow_refuses_what_it_cannot_do(blocks, without_type_checks):
    for bad, message in (
        ((0.1, -1.0, 0.1), "tau1 must be positive"),
        ((0.1, 0.1, np.nan), "tau2 must be positive"),
        ((0.0, 0.1, 0.1), "epsilon must be positive"),
        ((0.1, [0.1, 0.2], 0.1), "tau1 must be one number"),
    ):
        with pytest.raises(ValueError, match=message):
            jms.AdamFlow(*bad)
    with pytest.raises(ValueError, match="rule must have no memory"):
        jms.solve_limit(blocks, jms.AdamFlow(0.1, 0.1, 0.1), ALPHA)


# the command line and the study


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "e.csv").write_text("a,b,y\n1.3,0.7,1\n")
    return ("train", "--data", "e.csv")


def test_command_reports_a_run_against_the_flow(example, capsys):
    args = (*example, "--epsilon", "0.1", "--learning-rate", "1e-3")
    assert main([*args, "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out, parse_constant=lambda _: pytest.fail("not JSON"))
    assert err == "" and report["result"] == "successful"
    assert np.isclose(report["flow"]["kkt"]["error"], 0.1023833, atol=1e-7)
    assert abs(report["kkt"]["error"] - 0.1023833) < 1e-4 < 10 * report["distance_to_flow"] < 1e-2
    assert main(args) == 0
    out, _ = capsys.readouterr()
    assert "KKT error" in out and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("optimizer", "options", "name", "far"),
    [
        ("adabelief", ["--epsilon", "0.1", "--b1", "0"], "gradient flow", 1e-3),
        (
            "adam",
            ["--eps-root", "0.01", "--b1", "0", "--b2", "0"],
            "sqrt smoothed sign descent, ε = 0.1",
            1e-4,
        ),
        (
            "rmsprop",
            ["--epsilon", "0.01", "--decay", "0"],
            "sqrt smoothed sign descent, ε = 0.1",
            1e-4,
        ),
        ("rmsprop", ["--decay", "0"], "sqrt smoothed sign descent, ε = 0.0001", 1e-2),
    ],
)
def test_command_compares_with_the_flow_of_small_steps(
    optimizer, options, name, far, example, capsys
):
    main([*example, "--optimizer", optimizer, *options, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["flow"]["name"] == name and report["distance_to_flow"] < far


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("--optimizer", "sgd", "--depth", "3"), 2, "depth: the limit of gradient flow"),
        (("--optimizer", "sgd", "--learning-rate", "10"), 1, "step 3: The run diverged"),
        (("--optimizer", "sign", "--steps", "2000"), 1, "has not converged"),
        (("--optimizer", "sgd", "--epsilon", "0.1"), 2, "epsilon: sgd has no such option"),
        (("--optimizer", "adam", "--b1", "1"), 2, "b1 must be from 0 to less than 1"),
        (("--optimizer", "adam", "--learning-rate", "0"), 2, "learning_rate must be positive"),
        ((), 2, "epsilon: smoothed_sign needs a number > 0"),
        (("--study", "--out", "folder"), 2, "data: the study has its own"),
        (("--study",), 2, "study: give --study and its folder --out DIR together"),
    ],
)
def test_command_says_what_is_wrong(args, status, message, example, capsys):
    assert main([*example, *args]) == status
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.slow
def test_study_in_small(example, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_study, "FAMILIES", _study.FAMILIES[:2])
    monkeypatch.setattr(_study, "_EPSILONS", np.array([1e-3, 1e-2, 0.1, 0.3]))
    monkeypatch.setattr(_study, "_INSTANCES", 3)
    monkeypatch.setattr(_study, "_NUM_STEPS", 20_000)
    monkeypatch.setattr(_study, "_RATES", np.geomspace(1e-2, 1e-3, 3))
    assert main(["train", "--study", "--out", "study"]) == 0
    out, _ = capsys.readouterr()
    names = {"study.md", "study.pdf", "study.png", "summary.json"}
    assert {path.name for path in (tmp_path / "study").iterdir()} == names
    summary = json.loads((tmp_path / "study" / "summary.json").read_text("utf-8"))
    np.testing.assert_allclose(
        summary["flow"]["kkt_error"], [0.2641826, 0.2439954, 0.1023833, 0.0507208], atol=1e-7
    )
    sign, adam = summary["families"][:2]
    assert adam["name"] == "Adam (0, 0)"
    coarse, _, fine = sign["curves"]
    assert fine["converged"][1:] == [True] * 3 and not coarse["converged"][0]
    assert fine["from_flow"] < 1e-3 and abs(sign["over_rates"]["order"] - 1) < 0.1
    assert f"within {fine['from_flow']:.1e} of the flow's KKT error" in out
    assert "converges from ε = 0.01 on" in out and "not converged" in out
    assert f"{sign['over_rates']['order']:.2f}" in out
