# %% [markdown]
# # Smoothed sign descent in ten minutes
#
# Smoothed sign descent, $\dot w = -g/(|g| + \varepsilon)$, on $\beta = u\circ u - v\circ v$
# with $u(0) = v(0) = \alpha$. It runs through three stages and ends at an interpolating solution
# close to, but not quite, the minimiser of a divergence $D$. This notebook shows the stages,
# the mirror map, and what $\varepsilon$ does.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxmd_sign as jms

jax.config.update("jax_enable_x64", True)
problem = jms.Problem([[1.3, 0.7]], [1.0])
alpha = 0.05

# %% [markdown]
# ## Three stages
# Warm-up until $T_1$, sign descent with slopes near 1 until the first $T_2$, then convergence. The
# dual variable $\theta = \nabla\Phi_t(\beta)$ grows almost linearly in between.

# %%
flow = jms.solve_trajectory(problem, jms.SmoothedSign(0.01), alpha)
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for axis, values, name in zip(axes, (flow.beta, flow.dual), (r"$\beta$", r"$\theta$"), strict=True):
    axis.plot(flow.ts, values)
    axis.axvline(flow.warmup_end[0], color="grey", linestyle=":")
    axis.axvline(flow.sign_end.min(), color="grey", linestyle="--")
    axis.set(xlabel="time $t$", ylabel=name)

# %%
print(f"T1 = {flow.warmup_end[0]:.4f}, T2 = {flow.sign_end.round(4)}, settled at {flow.t_end:.4f}")

# %% [markdown]
# ## The limit, without integrating to infinity
# The residual is the clock: the limit is the end point of a short integration.

# %%
limit = jms.solve_limit(problem, jms.SmoothedSign(0.01), alpha)
print("beta:", limit.beta.round(6), "steps:", int(limit.stats["num_steps"][0]))
print("distance to the end of the flow:", f"{jnp.abs(limit.beta - flow.beta[-1]).max():.0e}")

# %% [markdown]
# ## What ε does
# The KKT error says how far the limit is from minimising $D$. It falls as ε grows, up to
# an $\varepsilon^*$ where the limit *is* the minimiser.


# %%
@jax.jit
@jax.vmap
def error_and_slope(epsilon):
    def error(epsilon):
        limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha)
        return jms.kkt(problem, limit).error

    return jax.value_and_grad(error)(epsilon)


epsilons = jnp.logspace(-4, 1, 101)
errors, slopes = error_and_slope(epsilons)
figure, axis = plt.subplots(figsize=(4, 2.6), layout="constrained")
axis.semilogx(epsilons, errors)
axis.set(xlabel=r"$\varepsilon$", ylabel="KKT error")

# %%
print("least error on the grid at", f"epsilon = {epsilons[errors.argmin()]:.4f}")
print("falls with epsilon up to there:", bool((slopes[: errors.argmin()] < 0).all()))
