"""What the study shows, in words and a table made from its numbers."""

from typing import Any


def study_report(numbers: dict[str, Any]) -> str:
    """The study in Markdown."""
    families = numbers["families"]
    lines = [
        "# Real optimisers against the flow of smoothed sign descent",
        "",
        f"x = ({numbers['x'][0]:g}, {numbers['x'][1]:g}), y = {numbers['y']:g}, α = "
        f"{numbers['alpha']:g}; ε from {numbers['epsilon'][0]:g} to {numbers['epsilon'][-1]:g}, at "
        f"most {numbers['num_steps']:,} steps. A run has converged when ‖Xβ − y‖ ≤ "
        f"{numbers['tol']:g} ‖y‖. ‖e‖: KKT error of (15) at the end, D measured from the start. "
        f"Instances: {numbers['instances']} random blocks of two columns, ε from a hundredth to "
        f"all of the range of Assumption 3.3, η = {numbers['instance_learning_rate']:g}; all of a "
        "block's runs must converge to be counted, and ‖e‖ must fall from each ε to the next.",
        "",
        "| optimiser | η | converged | from ε | farthest from the flow's ‖e‖ | least at ε "
        "| order in η | instances converged | of these ‖e‖ falls |",
        "|:--|" + "--:|" * 8,
    ]
    for family in families:
        for i, curve in enumerate(family["curves"]):
            lines.append(_row(numbers, family, curve, first=i == 0))
    lines += ["", "## What holds, what does not", "", *_findings(numbers)]
    return "\n".join(lines) + "\n"


def _row(
    numbers: dict[str, Any], family: dict[str, Any], curve: dict[str, Any], first: bool
) -> str:
    rest = ["", "", ""]
    if first:
        counts = family["instances"]
        rest = [
            _number(family["over_rates"]["order"], ".2f"),
            f"{counts['converged']} of {numbers['instances']}",
            str(counts["falls"]),
        ]
    cells = [
        family["name"],
        f"{curve['learning_rate']:g}",
        f"{curve['num_converged']} of {len(numbers['epsilon'])}",
        _number(curve["converged_from"], ".2g"),
        _number(curve["from_flow"], ".1e"),
        _number(curve["epsilon_least"], ".2g"),
        *rest,
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _findings(numbers: dict[str, Any]) -> list[str]:
    """One line for each question; every verdict is computed."""
    families = {family["name"]: family for family in numbers["families"]}
    names, total = list(families), numbers["instances"]
    sign = families[names[0]]
    lines = []
    for curve in sign["curves"]:
        start, eta = curve["converged_from"], curve["learning_rate"]
        if start is None:
            lines.append(f"- Smoothed sign descent at η = {eta:g} converges at no ε.")
            continue
        below = "at every ε" if start == numbers["epsilon"][0] else f"from ε = {start:.2g} on"
        lines.append(
            f"- Smoothed sign descent at η = {eta:g} converges {below}, there within "
            f"{curve['from_flow']:.1e} of the flow's KKT error; for smaller ε it oscillates, and "
            "is reported as not converged."
        )
    lines.append(_same(sign, families[names[1]]))
    orders = [(name, families[name]["over_rates"]) for name in names]
    good = [name for name, rates in orders if rates["order"] and abs(rates["order"] - 1) <= 0.1]
    rates = numbers["rates"]
    lines.append(
        f"- As η → 0 at ε = {numbers['rate_epsilon']:g} the end tends to the limit of the flow at "
        f"first order (slope 1 ± 0.1 over the last decade, down to η = {rates[-1]:.0e}): "
        f"{', '.join(good) or 'none'}."
    )
    for name, found in orders:
        if name not in good and found["order"] is not None:
            lines.append(
                f"- {name} does not, down to there: slope {found['order']:.2f}, KKT error still "
                f"{found['from_flow'][-1]:.1e} from the flow's.{_why(numbers, families[name])}"
            )
    lines.append(
        f"- A larger ε means a smaller KKT error inside Assumption 3.3 for the flow on "
        f"{numbers['flow_falls']} of {total} random blocks."
    )
    for name in names[1:]:
        counts = families[name]["instances"]
        verdict = "holds" if counts["falls"] == counts["converged"] else "fails on some"
        lines.append(
            f"- The same for {name}: {verdict} ({counts['falls']} of the {counts['converged']} on "
            "which all its runs converge)."
        )
    descent = numbers["gradient_descent"]["kkt_error"]
    ends = [curve["last"] for f in families.values() for curve in f["curves"] if curve["last"]]
    lines.append(
        f"- GD's point has KKT error {descent:.4f}; at ε = {numbers['epsilon'][-1]:g} the flow has "
        f"{numbers['flow']['kkt_error'][-1]:.4f} and the optimisers, at their largest ε that "
        f"converges, from {min(ends):.4f} to {max(ends):.4f}."
    )
    return lines


def _why(numbers: dict[str, Any], family: dict[str, Any]) -> str:
    """What keeps an optimiser from the flow: a long memory, or another place of ε."""
    if family["b2"]:
        span = 1 / (1 - family["b2"])
        return (
            f" It averages squares over {span:,.0f} steps, a time of "
            f"{span * numbers['rates'][-1]:.2g} even at the smallest η."
        )
    root = family["curves"][-1]["epsilon_least"]
    if family["in_root"] and root is not None:
        return (
            f" √ε stands where the others have ε: its least error is at √ε = {root**0.5:.2g}, that "
            f"of the flow at ε = {numbers['flow']['epsilon_least']:.2g}."
        )
    return ""


def _same(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Whether two optimisers end at the same KKT errors, at the step size that both have."""
    rates = {curve["learning_rate"]: curve for curve in one["curves"]}
    curve = other["curves"][0]
    twin = rates[curve["learning_rate"]]
    both = twin["converged"] & curve["converged"]
    apart = float(abs(twin["kkt_error"] - curve["kkt_error"])[both].max())
    how = f"differ by at most {apart:.0e}" if apart else "are equal to the last bit"
    return (
        f"- {other['name']} is {one['name']} descent: at η = {curve['learning_rate']:g} their KKT "
        f"errors {how} where both converge."
    )
