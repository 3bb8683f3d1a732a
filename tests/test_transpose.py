"""`transposable` on a toy: both modes, any order, only the columns that are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmd_sign._transpose import transposable

columns = []


@jax.custom_jvp
def probe(x):
    """x, noting every tangent that is pushed through it."""
    return x


@probe.defjvp
def _probe_jvp(primals, tangents):
    jax.debug.callback(lambda _: columns.append(1), tangents[0])
    return primals[0], tangents[0]


def solve(x, t):
    """Four times x ← x t in a loop that only has forward mode; a number of steps beside it."""

    def step(state):
        i, value = state
        return i + 1, value * t

    steps, value = lax.while_loop(lambda state: state[0] < 4, step, (0, x + 0 * t))
    out = {"power": value**2, "linear": jnp.sum(x) * t, "fixed": jnp.ones(2)}
    return out, {"steps": steps, "size": jnp.sum(value)}


def closed(x, t):
    return {"power": x**2 * t**8, "linear": jnp.sum(x) * t, "fixed": jnp.ones(2)}


def total(function):
    """A scalar that depends on every output, not linearly."""
    return lambda x, t: (
        jnp.sum(jnp.sin(function(x, t)["power"])) + jnp.sum(function(x, t)["linear"] ** 2)
    )


wrapped = transposable(solve)
counted = transposable(lambda x, t: solve(probe(x + 0 * t), t))
value, expected = total(lambda x, t: wrapped(x, t)[0]), total(closed)
POINT = jnp.array([0.3, -0.5, 1.1]), jnp.array(0.9)


def assert_same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), left, right)


def test_values_are_those_of_the_function():
    out, aux = wrapped(*POINT)
    assert_same(out, closed(*POINT))
    assert aux["steps"] == 4 and jnp.issubdtype(aux["steps"].dtype, jnp.integer)


def test_the_loop_itself_has_no_reverse_mode():
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(total(lambda x, t: solve(x, t)[0]))(*POINT)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_first_derivatives_in_both_modes(mode, argnums):
    got = mode(lambda *args: wrapped(*args)[0], argnums)(*POINT)
    assert_same(got, jax.jacfwd(closed, argnums)(*POINT))


def test_reverse_is_the_transpose_of_forward():
    rng = np.random.default_rng(3)
    tangent = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal())
    out, push = jax.linearize(lambda *args: wrapped(*args)[0], *POINT)
    _, pull = jax.vjp(lambda *args: wrapped(*args)[0], *POINT)
    cotangent = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), out)
    there = jax.tree.map(lambda a, b: jnp.sum(a * b), push(*tangent), cotangent)
    back = jax.tree.map(lambda a, b: jnp.sum(a * b), pull(cotangent), tangent)
    assert sum(jax.tree.leaves(there)) == pytest.approx(float(sum(back)), rel=1e-13)


ORDERS = [
    (jax.jacfwd, jax.grad), (jax.jacrev, jax.grad), (jax.jacrev, jax.jacfwd),
    (jax.jacfwd, jax.jacrev, jax.grad),
]  # fmt: skip


def names(modes):
    return " of ".join(mode.__name__ for mode in modes)


def compose(modes, function, argnums):
    for mode in reversed(modes):
        function = mode(function, argnums)
    return function


@pytest.mark.parametrize("modes", ORDERS, ids=names)
def test_derivatives_of_any_order(modes):
    for argnums in (1, (0, 1)):
        got = jax.jit(compose(modes, value, argnums))(*POINT)
        assert_same(got, compose(modes, expected, argnums)(*POINT))


@pytest.mark.parametrize("axes", [(0, None), (None, 0)], ids=["x", "t"])
@pytest.mark.parametrize("modes", ORDERS[:2], ids=names)
def test_second_derivatives_of_batches_of_jitted_batches(modes, axes):
    """As a limit is run: over blocks under jit, and a batch of those, one argument shared.

    JAX 0.10 fails here on an output whose derivative is the same for all members, unless `_tie`
    prevents it.
    """

    def over_blocks(function):
        def run(x, t):
            times = jnp.broadcast_to(t, x.shape[:1])
            return jax.vmap(lambda x, t: function(x, t), (0, 0))(x, times)

        return total(jax.jit(run))

    blocks = jnp.stack([POINT[0], 2 * POINT[0]])
    args = [jnp.stack([blocks, blocks + 1]), POINT[1]]
    if axes == (None, 0):
        args = [blocks, jnp.array([0.9, 0.4, 0.7])]
    got = jax.jit(jax.vmap(compose(modes, over_blocks(lambda *a: wrapped(*a)[0]), 1), axes))(*args)
    assert_same(got, jax.vmap(compose(modes, over_blocks(closed), 1), axes)(*args))


def count(function, *args):
    """How many tangents a call pushes through the solve."""
    columns.clear()
    jax.block_until_ready(function(*args))
    jax.effects_barrier()
    return len(columns)


def test_only_perturbed_arguments_cost_a_tangent():
    x, t = POINT
    assert count(counted, x, t) == 0
    assert count(jax.jit(jax.grad(lambda t: counted(x, t)[0]["linear"])), t) == 1
    assert count(jax.jit(jax.grad(lambda x: counted(x, t)[0]["linear"])), x) == 3
    both = jax.jit(jax.grad(lambda x, t: counted(x, t)[0]["linear"], (0, 1)))
    assert count(both, x, t) == 4
    assert count(lambda: jax.jvp(lambda t: counted(x, t)[0], (t,), (jnp.ones(()),))) == 1
    # An argument that moves with another one is one argument, whatever moved it.
    assert count(jax.jit(jax.grad(lambda s: counted(x, s**2)[0]["linear"])), t) == 1


def test_what_lies_beside_the_outputs_is_not_differentiated():
    _, tangents = jax.jvp(wrapped, POINT, (jnp.ones(3), jnp.ones(())))
    assert tangents[1]["steps"].dtype == jax.dtypes.float0
    assert tangents[1]["size"] == 0 and tangents[0]["linear"] != 0

    def beside(t):
        out, aux = wrapped(POINT[0], t)
        return out["linear"] + aux["size"] * aux["steps"], aux

    slope, aux = jax.jit(jax.grad(beside, has_aux=True))(POINT[1])
    assert slope == pytest.approx(float(jnp.sum(POINT[0])), rel=1e-14)
    assert aux["steps"] == 4
