"""What a sweep computes of each case, and the codes of its outcome. Loads no JAX."""

from typing import NamedTuple


class Variable(NamedTuple):
    """A variable of the dataset: its dtype (None: that of the problem) and what it is."""

    text: str
    dtype: str | None = None
    per_feature: bool = False


VARIABLES = {
    "kkt_error": Variable("KKT error ‖e‖ of β_∞ for (15)"),
    "kkt_relative_error": Variable("KKT error relative to ‖∇D(β_∞)‖"),
    "bregman": Variable("divergence D(β_∞)"),
    "bregman_gap": Variable("gap D(β_∞) − D(β*)"),
    "distance_to_minimizer": Variable("distance ‖β_∞ − β*‖ to the minimiser of (15)"),
    "beta": Variable("limit β_∞", per_feature=True),
    "feasibility": Variable("‖Xβ_∞ − y‖"),
    "result": Variable("outcome of the case", "int8"),
    "num_steps": Variable("solver steps, all blocks together", "int32"),
    "kkt_error_slope": Variable("d kkt_error / d epsilon"),
}
"""Every variable there is, in the order of the dataset."""

DEFAULT_VARIABLES = tuple(name for name in VARIABLES if name != "kkt_error_slope")


class Code(NamedTuple):
    """An outcome: a number that never changes, and a sentence with the remedy."""

    value: int
    sentence: str


CODES = {
    "to_do": Code(-1, "Not solved yet. Run the sweep again: it goes on where it stopped."),
    "successful": Code(0, ""),
    "max_steps_reached": Code(
        1,
        "The most solver steps were taken. Raise max_steps (--max-steps); into a store, the same "
        "sweep then solves the failed cases again and keeps the rest.",
    ),
    "not_finite": Code(
        2, "The solution left the finite numbers. Scale the data nearer to 1, or use float64."
    ),
    "dual_not_converged": Code(
        3,
        "Newton's method for the minimiser did not converge. X may be close to rank-deficient: "
        "remove rows that nearly repeat others, use float64, or leave out bregman_gap and "
        "distance_to_minimizer.",
    ),
    "bad_input": Code(4, "The data or constants of this case were not usable. Check them."),
    "solver_failed": Code(
        5, "The solver stopped for another reason. Call solve_limit on this case to see which."
    ),
}
"""The table of `result` in datasets and stores, independent of the numbering inside Diffrax."""


def flags() -> dict[str, list[int] | str]:
    """The table as attributes of `result`, in the way of the CF conventions."""
    values = [code.value for code in CODES.values()]
    return {"flag_values": values, "flag_meanings": " ".join(CODES)}


def name_of(value: int) -> str:
    """The name of a code."""
    return next(name for name, code in CODES.items() if code.value == value)
