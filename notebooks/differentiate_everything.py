# %% [markdown]
# # Differentiate everything
#
# The limit $t \to \infty$ is a function of ε, α, X and y, and `jax.grad`, `jax.jacobian`,
# `jax.vmap` go through it, in both modes and to any order.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxmd_sign as jms

jax.config.update("jax_enable_x64", True)
problem = jms.Problem([[1.3, 0.7, 0.0, 0.0], [0.0, 0.0, 0.9, -1.6]], [1.0, -0.8])
alpha, epsilon = 0.05, 0.1

# %% [markdown]
# ## Sensitivities to the data
# `with_data` puts traced X and y into the structure of the problem. How does the solution move
# with the labels, and with the data?


# %%
def beta(X, y):
    return jms.solve_limit(problem.with_data(X, y), jms.SmoothedSign(epsilon), alpha).beta


to_X, to_y = jax.jit(jax.jacobian(beta, argnums=(0, 1)))(problem.X, problem.y)
print("d beta / d y:\n", to_y.round(4))

# %% [markdown]
# Each label moves its own block only. X dβ/dy must be the identity, since Xβ = y for every y:

# %%
print(f"largest deviation: {jnp.abs(problem.X @ to_y - jnp.eye(2)).max():.0e}")

# %%
step = 1e-5
moved = problem.X.at[0, 1].add(step), problem.X.at[0, 1].add(-step)
difference = (beta(moved[0], problem.y) - beta(moved[1], problem.y)) / (2 * step)
print("d beta / d x_12:  ", to_X[:, 0, 1].round(6))
print("by differences:   ", difference.round(6))

# %% [markdown]
# ## In ε and α: one call, both modes


# %%
def kkt_error(log_epsilon, alpha):
    limit = jms.solve_limit(problem, jms.SmoothedSign(jnp.exp(log_epsilon)), alpha)
    return jms.kkt(problem, limit).error


point = jnp.log(epsilon), jnp.asarray(alpha)
reverse = jax.jit(jax.grad(kkt_error, argnums=(0, 1)))(*point)
forward = jax.jit(jax.jacfwd(kkt_error, argnums=(0, 1)))(*point)
print(f"d error / d log epsilon: {reverse[0]:.6f}, d error / d alpha: {reverse[1]:.6f}")
print(f"forward and reverse differ by {jnp.abs(jnp.array(reverse) - jnp.array(forward)).max():.0e}")

# %%
logs = jnp.linspace(jnp.log(1e-3), jnp.log(3.0), 61)


def along(f):
    """The value of f and its derivative, by forward mode."""
    return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))


(values, slopes), (_, bends) = jax.jit(jax.vmap(along(along(lambda t: kkt_error(t, alpha)))))(logs)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.5), layout="constrained")
names = ("KKT error", r"first derivative in $\log\varepsilon$", "second derivative")
for axis, curve, name in zip(axes, (values, slopes, bends), names, strict=True):
    axis.semilogx(jnp.exp(logs), curve)
    axis.axhline(0, color="grey", linewidth=0.7)
    axis.set(xlabel=r"$\varepsilon$", title=name)

# %% [markdown]
# The slope changes its sign where the error is least. The minimum is sharp, hence the peak of the
# second derivative.
#
# ## An ε for every coordinate
# ε may be one number per coordinate. The KKT error is the norm of the stationarity residual $e$,
# whose Jacobian in the four log ε says which of them matters how.


# %%
@jax.jit
def residual(log_epsilons):
    def e(log_epsilons):
        limit = jms.solve_limit(problem, jms.SmoothedSign(jnp.exp(log_epsilons)), alpha)
        return jms.kkt(problem, limit).stationarity

    return e(log_epsilons), jax.jacobian(e)(log_epsilons)


e, J = residual(jnp.full(4, jnp.log(epsilon)))
print("gradient of the squared error in the four log epsilon:", (2 * e @ J).round(5))

# %% [markdown]
# In each block the two entries have opposite signs: raising the ε of the coordinate with the
# larger $|x|$ would raise the error, raising the other lowers it. A few Gauss–Newton steps along
# this Jacobian bring the error to 0:

# %%
log_epsilons = jnp.full(4, jnp.log(epsilon))
for i in range(6):
    e, J = residual(log_epsilons)
    print(f"step {i}: KKT error {jnp.linalg.norm(e):.1e}, epsilon {jnp.exp(log_epsilons).round(4)}")
    log_epsilons = log_epsilons - jnp.linalg.lstsq(J, e, rcond=1e-6)[0]

# %%
limit = jms.solve_limit(problem, jms.SmoothedSign(jnp.exp(log_epsilons)), alpha)
print("limit:    ", limit.beta.round(6))
print("minimiser:", jms.bregman_minimizer(problem, limit).round(6))

# %% [markdown]
# The limit is the minimiser of its divergence. `tune_epsilon(..., per="coordinate")` does this
# for any objective, with bounds, and says how the search ended.
