"""The certificate: rows against SciPy, mutations that must be seen, random instances, files."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import reference
from rich.cells import cell_len
from rich.console import Console

from jaxmd_sign import Problem, certify, load_problem
from jaxmd_sign._certificate import _block_case, _command, _general, _measured
from jaxmd_sign._certificate._api import certify_random
from jaxmd_sign._certificate._claims import BLOCK_CLAIMS, CLAIMS
from jaxmd_sign._certificate._formulas import SOURCE
from jaxmd_sign._certificate._measured import measure, solve_blocks
from jaxmd_sign._certificate._path import Effort
from jaxmd_sign._certificate._plot import draw_margins
from jaxmd_sign._certificate._random_cases import certify_instances, draw_blocks
from jaxmd_sign._certificate._report import print_certificate, verdict
from jaxmd_sign._certificate._verdicts import Row
from jaxmd_sign._cli import main
from jaxmd_sign._mirror import HyperbolicEntropy, PowerPotential
from jaxmd_sign._results import RESULTS

X, Y, EPSILON, ALPHA = np.array([1.3, 0.7]), 1.0, 0.01, 0.05
SLACK = 1e-7
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inside():
    return certify(Problem(X[None], np.array([Y])), EPSILON, ALPHA)


@pytest.fixture(scope="module", autouse=True)
def few_shapes():
    """Random instances in chunks of the size that one case is padded to: one program for both."""
    sizes, _measured.CHUNKS = _measured.CHUNKS, _measured.CHUNKS[:1]
    yield
    _measured.CHUNKS = sizes


@pytest.fixture(scope="module")
def many():
    return certify_random(256, 3)


def numbers(row):
    """The numbers of a detail, e.g. "E = 0.2, U = 0.3", by name."""
    found = (part.rpartition(" = ") for text in row.detail.split("; ") for part in text.split(", "))
    return {name.split(" ")[-1]: float(value.split()[0]) for name, _, value in found if name}


def test_every_claim_has_a_row_and_holds_within_the_assumptions(inside):
    assert [row.claim for row in inside.claims[:3]] == [f"Assumption 3.{i}" for i in (2, 3, 8)]
    assert len(inside.claims) == len(CLAIMS) + 3
    for row in inside.claims:
        alone = row.claim in ("Corollary 3.11", "Corollary 3.12")
        assert row.holds is (None if alone else True), row
        assert alone == np.isnan(row.margin)
    assert inside["Corollary 3.11"].detail == "needs two blocks or more"
    with pytest.raises(KeyError, match="is not one of"):
        inside["Lemma Z"]


def test_numbers_are_those_of_scipy(inside):
    """E, T₁, T₂, slope and the zero of E, by LSODA and DOP853 in other variables."""
    limit = reference.block_limit_time(X, Y, EPSILON, ALPHA)
    flow = reference.block_trajectory(X, Y, EPSILON, ALPHA, [0.0])
    at_zero = reference.block_limit(X, Y, 0.2095791, ALPHA)
    assert np.isclose(numbers(inside["Theorem 3.9, U"])["E"], limit.signed_error, atol=1e-7)
    assert np.isclose(numbers(inside["Proposition 3.5, T₁"])["T₁"], flow.warm_up_end, atol=1e-7)
    first = np.min(flow.sign_stage_ends)
    assert np.isclose(numbers(inside["Proposition 3.7, stage"])["T₂"], first, atol=1e-6)
    assert abs(numbers(inside["Corollary 3.10"])["ε*"] - 0.2095791) < 1e-7
    assert abs(at_zero.signed_error) < 1e-7

    def error(log_epsilon):
        return reference.block_limit(X, Y, np.exp(log_epsilon), ALPHA).kkt_error

    slope, _ = reference.derivative(error, np.log(EPSILON), step=0.1, levels=3)
    assert np.isclose(numbers(inside["Corollary 3.10"])["ε"], slope, rtol=1e-3)


def test_bounds_are_those_of_the_formulas(inside):
    """U, V from SciPy's trajectory; U₀, V₀ and ε̄ from their definitions."""
    flow = reference.block_trajectory(X, Y, EPSILON, ALPHA, [0.0])
    tau = flow.sign_stage_ends[1]
    ts = np.append(tau, tau + np.geomspace(1e-6, 3, 400))
    w = reference.block_trajectory(X, Y, EPSILON, ALPHA, ts).u
    end = reference.block_limit(X, Y, EPSILON, ALPHA).w
    w = np.vstack([w, end])
    cos, sin = X / np.hypot(*X)
    before, after = w[0] - ALPHA, end - w[0]
    U = (X[0] - X[1]) / np.hypot(*X) * (before[1] + after[0] / 2)
    assert np.isclose(numbers(inside["Theorem 3.9, U"])["U"], U, atol=1e-6)
    lag = np.trapezoid(1 - w[:, 1] / w[:, 0], w[:, 0])
    V = -(cos - sin) * before[1] + sin * (before[0] - before[1] + lag)
    assert np.isclose(numbers(inside["Theorem 3.9, V"])["V"], V, atol=1e-5)
    last = numbers(inside["Theorem 3.9, V₀"])["ε̄"]
    assert last == pytest.approx(0.0175, rel=1e-12)  # there it is the whole interval
    assert a_priori(last)[1] < a_priori(last)[0]
    U0, V0 = a_priori(EPSILON)
    assert np.isclose(numbers(inside["Theorem 3.9, U₀"])["U₀"], U0, rtol=1e-6)
    assert np.isclose(numbers(inside["Theorem 3.9, V₀"])["V₀"], V0, rtol=1e-6)


def a_priori(epsilon):
    """U₀ and V₀ as docs/bounds.md has them."""
    (a1, a2), norm = X, np.hypot(*X)
    reach = Y + (a1 + a2) * ALPHA**2
    C = (np.sqrt(reach / (a1 + a2)) + np.sqrt(reach / a1)) / 2 - ALPHA
    U0 = (a1 - a2) / norm * (C - epsilon / (4 * a2 * reach))
    W = np.sqrt(Y / (a1 + a2))
    eta = 4 * epsilon / (a2 * Y * W)
    kappa, ratio = np.sqrt(1 - eta), a2 / a1
    slip = (1 - ratio / 2) * epsilon / (a2 * Y) * np.log((1 - eta) * (W**2 / ALPHA**2 - 1) / eta)
    W2 = max(ALPHA, kappa * W - slip) * kappa**-ratio
    W1 = np.sqrt((Y + 4 * epsilon**2 / Y**2 * np.sum(1 / X) - a2 * W2**2) / a1)
    return U0, (a2 * (W1 - ALPHA) - a1 * (W2 - ALPHA)) / norm


def test_random_instances_within_the_assumptions_violate_nothing(many):
    assert many.violated == []
    assert [row.claim for row in many.claims[:3]] == [f"Assumption 3.{i}" for i in (2, 3, 8)]
    assert many["Assumption 3.3"].holds and not many["Assumption 3.8"].holds
    for row in many.claims[3:]:
        assert row.holds and row.instances > (10 if "Cor" in row.claim else 40), row
        assert row.margin >= -SLACK


def test_random_instances_outside_have_a_number_or_a_reason():
    found = certify_random(256, 4, outside=True)
    always = {"Proposition 3.4", "Lemma A.1", "Lemma A.2", "Lemma A.3", "Theorem 3.9, U"}
    always |= {"Theorem 3.9, V", "Theorem 3.9, routes", "Depth M, KKT", "Gradient flow, (11)"}
    for row in found.claims:
        assert np.isfinite(row.margin) and "not evaluated" not in row.detail, row
        assert row.holds or row.claim not in always, row
    assert found["Lemma A.3"].instances == 256 and found.failed == []
    assert found["Proposition 3.7, T₂"].violations > 0  # it is not blind


def test_what_fails_is_tried_again_and_said_if_it_fails_again(monkeypatch):
    """Three blocks run out of steps; with more steps, one of them still does."""
    blocks = draw_blocks(8, 1, False)
    good = measure(blocks, Effort())
    n, out_of_steps = len(blocks.y), int(RESULTS.max_steps_reached._value)
    seen = []

    def solve(some, effort, sizes):
        index = [int(np.flatnonzero(blocks.y == y)[0]) for y in some.y]
        fails = [0, 2, 5] if not seen else [2]
        seen.append((index, effort.max_steps, sizes))
        codes = np.zeros((len(index), 3), int)
        codes[np.isin(index, fails), 1] = out_of_steps  # of depth 3
        return jax.tree.map(lambda leaf: leaf[index], good)._replace(codes=codes)

    monkeypatch.setattr(_measured, "_in_chunks", solve)
    found = measure(blocks, Effort(max_steps=10))
    assert [index for index, *_ in seen] == [list(range(n)), [0, 2, 5]]
    assert seen[1][1] > 10 * seen[0][1] and np.flatnonzero(found.codes.any(axis=1)) == [2]
    np.testing.assert_array_equal(found.margins, good.margins)
    rows, _, failed = certify_instances(blocks, SLACK)
    where = int(np.searchsorted(blocks.starts, 2, side="right")) - 1
    assert len(failed) == 1 and failed[0].startswith(f"instance {where}: The maximum number of")
    for row in rows:
        deep = row.claim.startswith("Depth M")
        assert ("1 not evaluated: The maximum number of solver steps" in row.detail) == deep
        assert row.holds or row.claim == "Assumption 3.8", row
        assert row.instances == 7 or not deep, row


def test_a_seed_gives_the_same_instances():
    one, other = draw_blocks(20, 7, False), draw_blocks(20, 7, False)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def solved():
    """Eight random pairs near the end of the interval of Assumption 3.3, where δ is not small."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(0.3, 2, (8, 2)))[:, ::-1] * [1, -1]
    y = rng.uniform(0.5, 2, 8)
    alpha = np.sqrt(y / (18 * np.abs(x).sum(axis=1))) * 0.9
    epsilon = 0.45 * np.abs(x).min(axis=1) * y * alpha
    padded = np.pad(x, ((0, 0), (0, 4)))  # the shape of the other tests: one program for all
    return solve_blocks(padded, y, epsilon, alpha, Effort())


def holds(name, cases, formulas):
    """Whether a claim holds on every case, under formulas that may be wrong."""
    (claim,) = (claim for claim in BLOCK_CLAIMS if claim.name == name)
    margins = jax.jit(jax.vmap(lambda case: claim.measure(case, formulas)))(cases)
    return bool(np.all(margins >= -SLACK))


def without_delta(delta, depth=2):
    return PowerPotential(0 * delta, depth)


def wrong_power(delta, depth=2):
    return PowerPotential(delta, depth + 1)


def with_alpha(alpha):
    return HyperbolicEntropy(alpha**0.5)  # α where (9) has α²


NEIGHBOUR = np.array([0.8, 0.2, 0, 0, 0, 0])  # the X of another block, in its units

MUTATIONS = {
    "wrong sign in (14)": (
        {"dual_rate": lambda c, *rest: -SOURCE.dual_rate(c, *rest)},
        "Proposition 3.6, (14)",
    ),
    "δ forgotten in (14) at T₁": ({"potential": without_delta}, "Proposition 3.6, T₁"),
    "T₁ taken as T₂": (
        {"warmup_end": lambda path: path.sign.t.max()},
        "Proposition 3.5, T₁",
    ),
    "U with (a₁ − a₂) halved": (
        {"upper": lambda *args: SOURCE.upper(*args) / 2},
        "Theorem 3.9, U",
    ),
    "a potential with the wrong power": ({"potential": wrong_power}, "Theorem 3.9, routes"),
    "KKT projected with a neighbour's X": (
        {"outside_row_space": lambda _, v: SOURCE.outside_row_space(NEIGHBOUR, v)},
        "Theorem 3.9, routes",
    ),
    "Φ_α with α for α²": ({"entropy": with_alpha}, "Gradient flow, (11)"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_turns_a_row_false(name, solved):
    change, row = MUTATIONS[name]
    assert holds(row, solved, SOURCE)
    assert not holds(row, solved, SOURCE._replace(**change))


@pytest.fixture
def untuned(monkeypatch):
    """Without ε*, whose search is compiled once more for every shape."""
    monkeypatch.setattr(_block_case, "_MOST_TUNED", 0)


def test_several_blocks_and_a_label_of_zero(untuned):
    problem = Problem.from_blocks([[1.3, 0.7], [0.4, -0.9], [0.5, 0.6]], [1.0, -2.0, 0.0])
    found = certify(problem, 0.005, 0.05)
    limits = [
        reference.block_limit(x, y, 0.005, 0.05) for x, y in (((1.3, 0.7), 1), ((0.4, -0.9), -2))
    ]
    total = np.hypot(*(limit.kkt_error for limit in limits))
    assert found["Assumption 3.2"].holds is False
    assert np.isclose(numbers(found["Theorem 3.9, routes"])["‖e‖"], total, rtol=1e-6)
    assert found["Corollary 3.11"].holds and found["Corollary 3.12"].holds
    assert all("label 0" in row.detail for row in found.claims[3:])


def test_a_general_X_is_looked_at_all_the_same(monkeypatch):
    monkeypatch.setattr(_general, "_DEPTH", 2)  # "depth M" by what is compiled anyway
    problem = Problem([[1.0, 0.5, 0.2], [0.3, -1.0, 0.4]], [1.0, 0.5])
    found = certify(problem, 0.05, 0.1)
    for claim in ("Proposition 3.6, (14)", "Theorem 3.9, routes", "Gradient flow, (11)"):
        assert found[claim].holds and found[claim].detail.startswith("outside Assumption 3.2")
    assert found["Theorem 3.9, U"].holds is None
    assert found["Theorem 3.9, U"].detail == "needs Assumption 3.2"
    assert np.isfinite(found["Depth M, KKT"].margin)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "example.csv").write_text("a,b,y\n1.3,0.7,1\n")
    return tmp_path


CASE = ("--data", "example.csv", "--epsilon", "0.01", "--alpha", "0.05")


def test_json_has_the_promised_keys(folder, capsys, inside):
    assert main(["certify", *CASE, "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == "" and out.count("\n") == 1
    keys = {"claim", "holds", "margin", "detail", "instances", "violations"}
    assert all(keys <= row.keys() for row in report["claims"])
    assert [row["holds"] for row in report["claims"]] == [row.holds for row in inside.claims]
    assert report["claims"][-7]["margin"] is None  # Corollary 3.12 needs two blocks


def test_table_and_html(folder, capsys, inside):
    assert main(["certify", *CASE, "--html", "report.html"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(cell_len, out.splitlines())) <= 80
    assert "Lemma B.1" in out
    claims = [row for row in inside.claims if not row.claim.startswith("Assumption")]
    judged = sum(row.holds is not None for row in claims)
    assert len(claims) == len(inside.claims) - 3
    assert f"No violation of {judged} claims." in " ".join(out.split())
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3 and "Corollary 3.10" in page
    loaded = page.replace("http://www.w3.org/", "")
    assert "http" not in loaded and "src=" not in loaded


def test_no_word_or_number_of_the_table_is_cut(capsys, monkeypatch, many):
    """Of 82 columns the last two were lost: 2.7e-1 for 2.7e-11."""
    monkeypatch.setenv("COLUMNS", "80")
    print_certificate(many, "many instances", Console())
    words = capsys.readouterr().out.split()
    said = [verdict(many), *(row.detail for row in many.claims)]
    assert [word for text in said for word in text.split() if word not in words] == []


def row(claim, holds, margin, violations=0):
    return Row(claim, "words", holds, margin, "", 1, violations)


def test_a_failed_assumption_is_not_drawn_as_a_violation():
    rows = [
        row("Assumption 3.2", True, 1.0),
        row("Assumption 3.3", False, -1.0),
        row("Lemma A.1", True, 1e-3),
        row("Lemma A.2", False, -0.1, violations=1),
    ]
    figure = draw_margins(rows, SLACK)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() != "None"]
    colors = {height: line.get_color() for line in dots for height in line.get_ydata()}
    bottom_up = [colors[height] for height in range(4)]
    assert bottom_up[2] == bottom_up[3] and len(set(bottom_up)) == 3
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[1:] == ["claim", "violated claim", "assumption: negative where it fails"]


def test_a_margin_of_minus_zero_is_zero(inside, capsys):
    zero = replace(inside, claims=[row("Lemma A.1", True, -0.0)])
    print_certificate(zero, "one case", Console())
    assert "0.00e+00" in (out := capsys.readouterr().out) and "-0.00e+00" not in out


def test_the_worst_instance_is_saved_and_read_back(folder, capsys, monkeypatch, untuned, many):
    monkeypatch.setattr(_command, "certify_random", lambda *_, **__: many)
    args = ["certify", "--random", "256", "--seed", "3", "--out", "w.npz"]
    assert main([*args, "--claim", "Theorem 3.9, U₀", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = {row["claim"]: row for row in json.loads(out)["claims"]}
    assert err == ""
    problem = load_problem("w.npz")
    assert problem.is_block_diagonal
    with np.load("w.npz") as stored:
        found = certify(problem, stored["epsilon"], stored["alpha"])
    expected = rows["Theorem 3.9, U₀"]["margin"]
    assert np.isclose(found["Theorem 3.9, U₀"].margin, expected, rtol=1e-4)
    assert main(["certify", "--data", "w.npz", "--json"]) == 0
    assert main([*args]) == 0 and "256 random instances" in capsys.readouterr().out
    assert main([*args, "--claim", "none"]) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give either --data F or --random N"),
        (("--data", "example.csv", "--random", "3"), "give either --data F or --random N"),
        (("--data", "example.csv", "--alpha", "0.1"), "epsilon is missing"),
        (("--data", "none.npz", "--alpha", "0.1"), "does not exist"),
        (
            ("--data", "example.csv", "--epsilon", "-1", "--alpha", "0.1"),
            "epsilon must be positive",
        ),
        (("--random", "0"), "random must be a whole number of at least 1"),
        (("--random", "3", "--seed", "-1"), "seed must be a whole number of at least 0"),
        (("--random", "3", "--epsilon", "1"), "--random draws data, epsilon and alpha itself"),
        ((*CASE, "--out", "w.npz"), "belong to --random N"),
    ],
)
def test_bad_input_is_one_line(args, message, folder, capsys):
    assert main(["certify", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_a_failed_solve_is_status_1(folder, capsys, monkeypatch, inside):
    failing = replace(inside, failed=["block 0: Try more.", "block 1: Try more."])
    monkeypatch.setattr(_command, "certify", lambda *_: failing)
    assert main(["certify", *CASE]) == 1
    out, err = capsys.readouterr()
    assert "Lemma A.3" in out
    assert err.endswith("α = 0.05: block 0: Try more. (1 more failed.)\n") and err.count("\n") == 1


def test_float32_is_certified_in_float64(inside):
    problem = Problem(np.float32(X[None]), np.float32([Y]))
    assert problem.dtype == np.float32
    found = certify(problem, EPSILON, ALPHA)
    assert found.slack == inside.slack == pytest.approx(SLACK)
    assert found.violated == [] and found["Lemma A.3"].margin > -SLACK
    E = numbers(inside["Theorem 3.9, U"])["E"]
    assert np.isclose(numbers(found["Theorem 3.9, U"])["E"], E, rtol=1e-6)
    with jax.enable_x64(False), pytest.raises(ValueError, match="certify works in float64, but"):
        certify(problem, EPSILON, ALPHA)


def test_bad_arguments_of_certify():
    problem = Problem(X[None], np.array([Y]))
    with pytest.raises(ValueError, match="epsilon must be a number"):
        certify(problem, [0.1, 0.2], 0.1)
    with pytest.raises(ValueError, match="Call it outside jit, vmap and grad"):
        jax.jit(lambda epsilon: certify(problem, epsilon, 0.1).slack)(0.1)


def test_a_general_X_in_other_units():
    """The same β and θ: the last times must suit the pace of each flow."""
    X, y = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 2.5]]), np.array([1.0, 2.0])
    found = [certify(Problem(s * X, s * y), 0.01 * s**2, 0.05) for s in (1, 1e-5)]
    assert not found[0].failed and not found[1].failed
    verdicts = [{row.claim: row.holds for row in one.claims} for one in found]
    assert verdicts[0] == verdicts[1] and verdicts[0]["Gradient flow, (11)"]


def test_a_general_X_and_an_epsilon_far_above_its_gradients():
    found = certify(Problem([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0]], [1.0, 2.0]), 1e4, 0.05)
    assert found["Lemma A.3"].holds and found["Theorem 3.9, routes"].holds
    # By differences of SciPy's limits; it was 1.741e-5.
    assert np.isclose(numbers(found["Corollary 3.10"])["ε"], 9.912e-6, rtol=1e-3)
