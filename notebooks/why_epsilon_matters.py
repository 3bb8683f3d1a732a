# %% [markdown]
# # Why ε matters
#
# In smoothed sign descent, $\dot w = -g/(|g| + \varepsilon)$, the constant $\varepsilon$ is no
# guard against division by 0: it decides at which of the many solutions of $X\beta = y$ the
# method ends. This notebook sweeps over it, and then finds the best one.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxmd_sign as jms

jax.config.update("jax_enable_x64", True)
problem = jms.Problem([[1.3, 0.7]], [1.0])

# %% [markdown]
# ## One sweep
# One example, two features: the solutions are a line in the plane. The sweep solves 200 values of
# ε for three of α, and says of each how far it is from minimising its divergence $D$, and how
# that changes with ε.

# %%
epsilons, alphas = np.geomspace(1e-8, 10, 200), [0.01, 0.05, 0.1]
found = jms.sweep(problem, epsilons, alphas, variables=["kkt_error", "kkt_error_slope", "beta"])
print(dict(found.sizes), "failed:", int((found.result != 0).sum()))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for alpha in alphas:
    row = found.sel(alpha=alpha)
    axes[0].semilogx(row.epsilon, row.kkt_error, label=rf"$\alpha = {alpha}$")
    axes[1].semilogx(row.epsilon, row.beta.sel(feature=0), label=rf"$\alpha = {alpha}$")
axes[0].set(xlabel=r"$\varepsilon$", ylabel="KKT error", ylim=0)
axes[1].set(xlabel=r"$\varepsilon$", ylabel=r"$\beta_1$")
axes[0].legend()

# %% [markdown]
# Left: on the plateau, where Adam's usual $10^{-8}$ lies, the error is large and hardly depends on
# ε. Beyond, it falls as ε grows, touches 0, and rises again. Right: the solution itself moves. On
# the plateau both entries are the same; a larger ε puts more on the feature with the larger $x$.

# %%
for epsilon in (1e-8, 1e-2, 0.2, 10):
    at = found.sel(alpha=0.05).sel(epsilon=epsilon, method="nearest")
    print(f"epsilon {epsilon:g}: beta {at.beta.values.round(4)}, KKT error {at.kkt_error:.4f}")

# %% [markdown]
# ## Does a larger ε always lower the error?
# The source proves it on an interval within its Assumption 3.3. The slope of the error in ε,
# computed along with the values, says where it holds on this problem.

# %%
slope = found.kkt_error_slope.sel(alpha=0.05).values
within = jax.vmap(lambda e: jms.check_assumptions(problem, e, 0.05).smallness)(epsilons)
print(f"Assumption 3.3 holds on the grid up to epsilon = {epsilons[within].max():.4f}")
print(f"the error falls on the grid up to epsilon = {epsilons[slope < 0].max():.4f}")
print("and rises from there on:", bool((slope[epsilons > epsilons[slope < 0].max()] > 0).all()))

# %% [markdown]
# ## The best ε
# `tune_epsilon` follows value and slope to where the error is 0: there the limit *is* the
# minimiser.

# %%
tuned = jms.tune_epsilon(problem, alpha=0.05)
print(f"epsilon* = {tuned.epsilon:.7f}, error {tuned.objective:.1e}")
print("limits solved on the way:", tuned.stats["num_solves"])

# %% [markdown]
# ## Several blocks, one ε
# With more examples whose features are disjoint, each has its own best ε, and errors add in
# quadrature. One sweep takes the four blocks as four problems, each alone.

# %%
blocks = jms.random_block_problem(jax.random.key(1), 4)
alone = [
    jms.Problem.from_blocks(blocks.data.x[i : i + 1], blocks.y[i : i + 1])
    for i in range(blocks.num_examples)
]
each = jms.sweep(alone, epsilons, 0.05, variables=["kkt_error"]).kkt_error.isel(alpha=0)
together = jms.sweep(blocks, epsilons, 0.05, variables=["kkt_error"]).kkt_error.isel(alpha=0)
print("best epsilon of each block:", each.idxmin("epsilon").values.round(3))
print(f"best for all: {together.idxmin():.3f}, where the error is {together.min():.3f}")
print(f"quadrature holds to {np.abs((each**2).sum('problem') ** 0.5 - together).max():.0e}")

# %%
figure, axis = plt.subplots(figsize=(4, 2.6), layout="constrained")
axis.semilogx(epsilons, together, label="all four")
axis.semilogx(epsilons, each.T, color="grey", linewidth=0.8)
axis.axvline(together.idxmin(), color="grey", linestyle=":")
axis.set(xlabel=r"$\varepsilon$", ylabel="KKT error", ylim=0)
axis.legend()

# %% [markdown]
# Grey: each block alone; all of them reach 0, at different ε. The dotted line is the best common
# ε, a compromise. `tune_epsilon(..., per="block")` gives each block its own.
