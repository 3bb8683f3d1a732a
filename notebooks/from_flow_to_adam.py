# %% [markdown]
# # From flow to Adam
#
# The theory is about a flow: steps infinitely small, and no memory. Adam takes steps of size
# $\eta$ and averages its gradients. This notebook goes from one to the other, a step at a time.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import jaxmd_sign as jms

jax.config.update("jax_enable_x64", True)
problem = jms.Problem([[1.3, 0.7]], [1.0])
alpha, epsilon = 0.05, 0.1


def flow_error(epsilon):
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha)
    return jms.kkt(problem, limit).error


# %% [markdown]
# ## Steps of finite size
# `smoothed_sign` is an optax optimiser; `train` runs it in one compiled loop, here for six
# learning rates at once. How far is each end from that of the flow?

# %%
etas = jnp.array([0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4])  # runs.beta[4] is that of 1e-3


@jax.jit
@jax.vmap
def sign_run(eta):
    return jms.train(problem, jms.smoothed_sign(eta, epsilon), alpha, 20_000, tol=1e-9)


runs = sign_run(etas)
limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), alpha)
away = jnp.abs(runs.beta - limit.beta).max(axis=1)
for eta, distance, code in zip(etas, away, runs.result._value, strict=True):
    print(f"eta {eta:.4f}: distance {distance:.1e} {'' if code == 0 else 'not converged'}")

# %%
figure, axis = plt.subplots(figsize=(4, 2.6), layout="constrained")
axis.loglog(etas, away, "o-")
axis.set(xlabel=r"learning rate $\eta$", ylabel="distance from the flow's limit")

# %% [markdown]
# A rate of 0.1 does not settle. Below, the distance shrinks in proportion to $\eta$: the flow is
# what small steps do.
#
# ## No memory is Adam without its averages
# With $\beta_1 = \beta_2 = 0$, Adam is the same optimiser.

# %%
bare = jms.train(problem, optax.adam(1e-3, b1=0, b2=0, eps=epsilon), alpha, 20_000, tol=1e-9)
print("largest difference of beta:", f"{jnp.abs(bare.beta - runs.beta[4]).max():.0e}")

# %% [markdown]
# ## With memory: does a larger ε still lower the error?
# Adam with $\beta_1 = 0.9$, and two values of $\beta_2$, against the flow. Its averages reach
# back about $1/(1 - \beta_2)$ steps: 10 and 1000 of size $\eta = 10^{-3}$, that is, times of 0.01
# and 1. (In the first notebook, the flow settled at a time of 0.8.)

# %%
epsilons = jnp.logspace(-4, 0, 17)
flow = jax.jit(jax.vmap(flow_error))(epsilons)


@jax.jit
def adam_errors(b2):
    def error(epsilon):
        optimizer = optax.adam(1e-3, b2=b2, eps=epsilon)
        run = jms.train(problem, optimizer, alpha, 20_000, tol=1e-6)
        return jms.kkt(problem, run.limit).error, run.result._value

    return jax.vmap(error)(epsilons)


figure, axis = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
axis.semilogx(epsilons, flow, "k", label="flow")
for b2, style in ((0.9, "o--"), (0.999, "s:")):
    errors, codes = adam_errors(b2)
    axis.semilogx(epsilons, errors, style, ms=3, label=rf"Adam, $\beta_2 = {b2}$")
    falls = bool((jnp.diff(errors[epsilons <= 0.1]) < 0).all())
    print(
        f"b2 = {b2}: {int((codes == 0).sum())} of 17 converged; falls up to epsilon = 0.1: {falls}"
    )
axis.set(xlabel=r"$\varepsilon$", ylabel="KKT error", ylim=0)
axis.legend()

# %% [markdown]
# With the short memory Adam keeps to the flow. With the long one it does not, but the error still
# falls as ε grows, to a least value at about the same ε.
#
# ## Adam in continuous time
# `AdamFlow` is Adam for $\eta \to 0$ with averages over times $\tau_1, \tau_2$. As they go to 0,
# it becomes smoothed sign descent.

# %%
taus = jnp.array([0.1, 0.03, 0.01, 3e-3])


@jax.jit
@jax.vmap
def end_of_adam_flow(tau):
    ts = jnp.array([0.0, 1e6])  # times after the flow has settled hold the limit
    return jms.solve_trajectory(problem, jms.AdamFlow(epsilon, tau, tau), alpha, ts=ts).beta[-1]


for tau, beta in zip(taus, end_of_adam_flow(taus), strict=True):
    distance = jnp.abs(beta - limit.beta).max()
    print(f"tau {tau:.3f}: beta {beta.round(4)}, from the limit {distance:.1e}")

# %% [markdown]
# Every library has its own place for ε: outside the root, as here, inside, before or after a
# correction of bias. The page [real optimisers](../docs/optimizers.md) has a table of them.
