"""The limit t → ∞ of a flow: β_∞, its dual, and the potential that belongs to it."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._adam import AdamFlow
from ._block import as_blocks, kernel
from ._checks import Numbers, Scalar, all_finite, usable_rtol, usable_steps
from ._clock import block_limit
from ._dense import as_dense
from ._dense_limit import dense_limit, is_stabilised, stabilised_limit
from ._dual import minimize_potential
from ._inputs import Rule, made_usable, prepare
from ._mirror import AbstractPotential, HyperbolicEntropy, PowerPotential
from ._powers import counted, power_difference
from ._problem import Blocks, Dense, Problem, matmul_precision, pull_back
from ._results import RESULTS, check, combine, mask_failed, worst
from ._rules import AbstractRule, GradientDescent, SmoothedSign
from ._solve import Outcome, check_diffrax, differentiable

_MOST_STEPS, _MOST_CHEAP_STEPS = 65536, 2**20


class Limit(eqx.Module):
    """Where a flow ends, and where its divergence D is measured from.

    - `beta`: β_∞, shape (d,).
    - `dual`: θ_∞ = ∇Φ_∞(β_∞), shape (d,).
    - `dual_reference`, `beta_reference`: θ and β at the reference time, shape (d,).
    - `potential`, `potential_reference`: Φ_∞ and Φ_ref, callables on (d,).
    - `alpha`: initial weights.
    - `residual`: Xβ_∞ − y, shape (n,).
    - `result`: `RESULTS` member; where it is not `successful`, every number here is NaN.
    - `stats`: numbers of solver steps, per block for a block problem.
    """

    beta: Float[Array, " d"]
    dual: Float[Array, " d"]
    dual_reference: Float[Array, " d"]
    beta_reference: Float[Array, " d"]
    potential: AbstractPotential
    potential_reference: AbstractPotential
    alpha: Float[Array, "..."]
    residual: Float[Array, " n"]
    result: RESULTS
    stats: dict[str, Array]


def solve_limit(
    problem: Problem,
    rule: AbstractRule,
    alpha: Numbers,
    *,
    depth: int = 2,
    rtol: float | None = None,
    reference: str = "start",
    max_steps: int | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    throw: bool = False,
) -> Limit:
    r"""The limit t → ∞ of a flow from u(0) = v(0) = α, without integrating to infinity.

    Smoothed sign descent on a block problem is integrated in the residual clock, whose end point
    is the limit (Lemma A.3, Thm 3.9); on any other X in time, by a stabilised explicit method,
    until it is gradient flow slowed by ε, whose end is a convex problem (in Diffrax for depths
    above 2, T₁, `"clip"`, float32, and rtol below 1e-8). Gradient descent ends at the minimiser
    (11).

    **Arguments:**

    - `problem`: a `Problem` with X (n, d).
    - `rule`: `SmoothedSign(epsilon)` or `GradientDescent()`.
    - `alpha`: initial weights α > 0, a scalar or one number per coordinate (d,).
    - `depth`: M of the model β = u^M − v^M, from 2 to 8; 2 for gradient descent.
    - `rtol`: relative tolerance of β_∞, of each block; 1e-8 in float64 and 1e-5 in float32 by
        default.
    - `reference`: where D is measured from: `"start"` (t = 0⁺) or `"warmup"` (T₁ of each block).
    - `max_steps`: most solver steps per block; 65,536 by default, and 2²⁰ of the explicit method
        on a general X, whose steps are cheap.
    - `adjoint`: by default derivatives work in both modes and to any order. A Diffrax adjoint
        differentiates a solve in Diffrax instead, e.g. `diffrax.RecursiveCheckpointAdjoint()` for
        reverse mode in all of a large general X.
    - `throw`: raise if the solve fails, rather than return NaN and a `result`. Costs a host
        callback.

    **Returns:** a `Limit`. A failed member of a vmapped batch is NaN with its own `result`.

    **Raises:** `ValueError` for bad concrete arguments. Traced ones give a `result`.

    !!! example
        >>> limit = solve_limit(Problem([[1.3, 0.7]], [1.0]), SmoothedSign(0.1), 0.05)
        >>> limit.beta.round(4)
        Array([0.6021, 0.3104], dtype=float64)
    """
    checked, alpha = prepare(problem, rule, alpha, depth)
    if isinstance(checked, AdamFlow):
        raise ValueError(
            "rule must have no memory: the limit of Adam's flow has no clock but time. Use "
            "solve_trajectory, whose last time is the limit."
        )
    rule = checked
    if isinstance(rule, SmoothedSign) and rule.schedule is not None:
        raise ValueError(
            "epsilon must be a number: the residual clock does not apply to a schedule. Use "
            "solve_trajectory."
        )
    check_diffrax("adjoint", adjoint, diffrax.AbstractAdjoint)
    if reference not in ("start", "warmup"):
        raise ValueError(f'reference must be "start" or "warmup", but is {reference!r}.')
    if reference == "warmup" and isinstance(rule, GradientDescent):
        raise ValueError('reference must be "start" for gradient descent, which has no warm-up.')
    # An array: a float would be a constant of the program, and each be compiled anew.
    tolerance = np.asarray(usable_rtol(rtol, problem.dtype), problem.dtype)
    stabilised = isinstance(problem.data, Dense) and type(rule) is SmoothedSign and adjoint is None
    stabilised &= is_stabilised(problem.dtype, rule.has_corner, depth, reference, tolerance)
    most = _MOST_CHEAP_STEPS if stabilised else _MOST_STEPS
    max_steps = usable_steps(most if max_steps is None else max_steps)
    limit = limit_of(
        problem, rule, alpha, depth, tolerance, reference, max_steps, stabilised, adjoint
    )
    if throw:
        limit = limit.result.error_if(limit, limit.result != RESULTS.successful)
    return limit


@eqx.filter_jit
def limit_of(
    problem: Problem,
    rule: Rule,
    alpha: Float[Array, "..."],
    depth: int,
    rtol: Scalar,
    reference: str,
    max_steps: int,
    stabilised: bool = False,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Limit:
    """As `solve_limit`, of arguments that have been looked at; `rtol` may be traced.

    `stabilised`: follow the flow on a general X by that method (`is_stabilised`).
    """
    ok, problem, rule, alpha = made_usable(problem, rule, alpha)
    with matmul_precision():
        if isinstance(rule, GradientDescent):
            limit = _gradient_descent(problem, alpha)
        elif isinstance(problem.data, Blocks):
            limit = _from_blocks(problem, rule, alpha, depth, rtol, reference, max_steps, adjoint)
        else:
            solve = partial(dense_limit, reference=reference, max_steps=max_steps)
            if stabilised:
                solve = partial(stabilised_limit, max_steps=max_steps)
            limit = _from_dense(problem, rule, alpha, depth, rtol, solve, adjoint)
    return checked(limit, check(ok, RESULTS.bad_input))


def checked(limit: Limit, *outcomes: RESULTS) -> Limit:
    """The limit, NaN if it failed by one of these outcomes, by its own, or by not being finite."""
    finite = check(all_finite(limit.beta, limit.dual), RESULTS.not_finite)
    result = combine(*outcomes, limit.result, finite)
    values = mask_failed(result, (limit.beta, limit.dual, limit.residual, limit.potential))
    return eqx.tree_at(
        lambda at: (at.beta, at.dual, at.residual, at.potential, at.result),
        limit,
        (*values, result),
    )


def _from_blocks(problem, rule, alpha, depth, rtol, reference, max_steps, adjoint) -> Limit:
    def solve(system, adjoint):
        return block_limit(system[0], reference, system[1], max_steps, adjoint)

    def one_block(block):
        return differentiable(solve, (block, rtol), adjoint)

    batch, data = as_blocks(problem, rule, alpha, depth), problem.data
    ends, report = jax.vmap(one_block)(batch.blocks)
    w, omega, w_ref, omega_ref = (batch.units.weight[:, None] * leaf for leaf in ends)
    start = jnp.broadcast_to(alpha, (problem.num_features,))
    if reference == "start":
        w_ref = omega_ref = data.gather(start)  # to the last bit: not by way of the units

    def scatter_delta(omega):
        return data.scatter(
            jnp.where(batch.still, data.gather(start), omega) ** depth, start**depth
        )

    # w only grows and ω only shrinks. Where rounding hides it, the sign of β is still known, and
    # with it that of ∇Φ.
    growth = jnp.maximum(power_difference(w, omega, depth), jnp.finfo(problem.dtype).tiny)
    # A block with label 0 stays at β = 0, and would follow its label as a kernel method does.
    near_zero = kernel(problem, rule, alpha, depth).beta
    beta = jnp.where(batch.still, near_zero, batch.signs * growth)
    beta_ref = batch.signs * power_difference(w_ref, omega_ref, depth)
    return _assemble(
        problem,
        alpha,
        beta=data.scatter(beta, 0),
        dual=data.scatter(batch.signs * w, 0),
        beta_reference=data.scatter(beta_ref, 0),
        dual_reference=data.scatter(batch.signs * w_ref, 0),
        potential=PowerPotential(scatter_delta(omega), depth),
        potential_reference=PowerPotential(scatter_delta(omega_ref), depth),
        report=report,
    )


def _from_dense(problem, rule, alpha, depth, rtol, solve, adjoint) -> Limit:
    flow = as_dense(problem, rule, alpha, depth)
    (u, v, u_ref, v_ref), report = differentiable(
        lambda system, adjoint: solve(*system, adjoint=adjoint), (flow, rtol), adjoint
    )
    return limit_of_weights(problem, alpha, (u, v), (u_ref, v_ref), depth, report)


def limit_of_weights(
    problem: Problem,
    alpha: Float[Array, "..."],
    end: tuple[Float[Array, " d"], Float[Array, " d"]],
    reference: tuple[Float[Array, " d"], Float[Array, " d"]],
    depth: int,
    report: Outcome,
) -> Limit:
    """What the weights (u, v) at the end and at the reference say of a limit: θ = s∘w, δ = ω^M.

    In discrete time a weight may overshoot 0.
    """
    (u, v), (u_ref, v_ref) = end, reference
    beta = power_difference(u, v, depth)
    u, v = counted(u, v, depth)
    # At 0⁺ a weight has the sign of its first step; no column moves later than that at T₁.
    first = jnp.sign(pull_back(problem, problem.y))
    signs_ref = jnp.where(u_ref == v_ref, first, jnp.sign(u_ref - v_ref))
    return _assemble(
        problem,
        alpha,
        beta=beta,
        dual=jnp.sign(u - v) * jnp.maximum(u, v),
        beta_reference=power_difference(u_ref, v_ref, depth),
        dual_reference=signs_ref * jnp.maximum(u_ref, v_ref),
        potential=PowerPotential(jnp.minimum(u, v) ** depth, depth),
        potential_reference=PowerPotential(jnp.minimum(u_ref, v_ref) ** depth, depth),
        report=report,
    )


def _gradient_descent(problem: Problem, alpha: Float[Array, "..."]) -> Limit:
    """The minimiser (11) of hyperbolic entropy by its convex dual: θ_∞ = Xᵀν, exactly."""
    potential = HyperbolicEntropy(alpha)
    zeros = jnp.zeros(problem.num_features, problem.dtype)
    dual = minimize_potential(problem, potential, zeros)
    return _assemble(
        problem,
        alpha,
        beta=dual.beta,
        dual=dual.theta,
        beta_reference=zeros,
        dual_reference=zeros,
        potential=potential,
        potential_reference=potential,
        report=Outcome.without_steps(check(dual.converged, RESULTS.dual_not_converged)),
    )


def _assemble(problem: Problem, alpha: Float[Array, "..."], *, report: Outcome, **values) -> Limit:
    return Limit(
        alpha=alpha,
        residual=problem.predict(values["beta"]) - problem.y,
        result=worst(report.result),
        stats=report.stats(),
        **values,
    )
