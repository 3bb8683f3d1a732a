# %% [markdown]
# # Your own data
#
# Real data has rows that share columns: a *general* X. This notebook takes such data from a file
# to a sweep, and asks what the limits minimise. Put your own file in the place of ours.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxmd_sign as jms

jax.config.update("jax_enable_x64", True)
here = Path.cwd() if Path("tests").exists() else Path.cwd().parent
patients = jms.load_problem(here / "tests/data/diabetes30_quadratic.csv")
held_out = np.arange(30) % 3 == 0
data = jms.Problem(patients.X[~held_out], patients.y[~held_out])
X_new, y_new = patients.X[held_out], patients.y[held_out]
print("X", data.X.shape, "block-diagonal:", data.is_block_diagonal, "held out:", X_new.shape[0])

# %% [markdown]
# 30 patients, 64 features (10 measurements and their products), the label in the last column. We
# keep ten patients for a test at the end. There are more features than patients, so that many β
# fit. The assumptions of the source do not hold; everything below is computed all the same, and
# is no claim of the theory.

# %%
assumed = jms.check_assumptions(data, 0.1, 0.05)
print("Assumption 3.2, disjoint rows:", bool(assumed.structure))

# %% [markdown]
# ## A sweep

# %%
epsilons = np.geomspace(1e-2, 10, 64)
found = jms.sweep(data, epsilons, 0.05, rtol=1e-4)
found = found.isel(alpha=0)
print("failed:", int((found.result != 0).sum()), " feasibility:", f"{found.feasibility.max():.0e}")

# %%
sizes = np.abs(found.beta).sum("feature")
large = (np.abs(found.beta) > 0.01 * np.abs(found.beta).max("feature")).sum("feature")
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
axes[0].semilogx(found.epsilon, found.kkt_error)
axes[1].semilogx(found.epsilon, sizes)
axes[2].semilogx(found.epsilon, large)
for axis, name in zip(axes, ("KKT error", r"$\|\beta\|_1$", "entries above 1 %"), strict=True):
    axis.set(xlabel=r"$\varepsilon$", ylabel=name)

# %% [markdown]
# All of these β fit the 20 patients exactly. They are different β: their $\ell_1$ norm and the
# number of entries that matter change with ε.

# %%
for epsilon in (0.01, 0.1, 1, 10):
    at = found.sel(epsilon=epsilon, method="nearest")
    first = np.argsort(-np.abs(at.beta.values))[:4]
    print(
        f"epsilon {epsilon:g}: |beta|_1 = {np.abs(at.beta).sum():.2f}, largest entries at {first}"
    )

# %% [markdown]
# ## What explains a limit?
# `explain` sets a β that fits beside the exact minimisers of ℓ₁, ℓ_{3/2}, ℓ₂, the best ℓ_p and
# hyperbolic entropy. First gradient descent, of which the theory says: hyperbolic entropy with
# our α.


# %%
def show(beta):
    for row in jms.explain(data, beta, alpha=0.05).rows:
        number = "" if np.isnan(row.parameter) else f"{row.parameter:.4g}"
        print(f"{row.potential:26}{number:>8}  distance {row.distance:.3f}")


descent = jms.solve_limit(data, jms.GradientDescent(), 0.05)
show(descent.beta)

# %% [markdown]
# The distance is 0 for that potential, whose α the fit finds again, and for no other. And smoothed
# sign descent, with a small ε?

# %%
show(found.beta.isel(epsilon=0).values)

# %% [markdown]
# No potential of the list explains that limit: even the nearest minimiser is far away.
#
# ## A test that matters: patients not seen
# How well does each of these β predict the label of the ten patients that it has not seen?

# %%
error = np.mean((found.beta.values @ np.asarray(X_new).T - np.asarray(y_new)) ** 2, axis=1)
none = float(jnp.mean(y_new**2))
figure, axis = plt.subplots(figsize=(4, 2.6), layout="constrained")
axis.semilogx(epsilons, error)
axis.axhline(none, color="grey", linestyle=":")
axis.set(xlabel=r"$\varepsilon$", ylabel="held-out squared error")
print(f"at epsilon = {epsilons[0]:g}: {error[0]:.2f}, at {epsilons[-1]:g}: {error[-1]:.2f}")
print(f"least at epsilon = {epsilons[error.argmin()]:.3g}; with beta = 0 it is {none:.2f}")

# %% [markdown]
# The dotted line is the error of β = 0: ten patients are few, and interpolating twenty labels
# with noise in them is no good predictor. [Tuning](../docs/tuning.md) shows how to find the ε of
# the least held-out error by its derivative.
