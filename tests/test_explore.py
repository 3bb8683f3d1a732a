"""The explorer without a browser: its numbers, its manners, and what it makes of a store."""

import contextlib
import http.client
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode

import jax
import numpy as np
import pytest

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._explore import _heat_map, _server
from jaxmd_sign._explore._answers import answer_case, answer_curve, read
from jaxmd_sign._explore._case import EPSILONS

QUESTION = {
    "x1": "1.3", "x2": "0.7", "y": "1", "epsilon": "0.1", "alpha": "0.05",
    "depth": "2", "smoothing": "abs",
}  # fmt: skip
ALPHAS = [0.02, 0.05, 0.1]


@contextlib.contextmanager
def serving(store=None):
    """The port of a server in a thread of this process, which shares its compiled programs."""
    with _server.bind(0) as bound:
        server = _server.make_server(_server.make_app(store))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port():
    with serving() as port:
        yield port


def get(port, path, headers=None, method="GET"):
    """Status, headers and body."""
    connection = http.client.HTTPConnection(_server.HOST, port)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def ask(port, path="/case", **changes):
    """The answer, strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    status, _, body = get(port, f"{path}?{urlencode(QUESTION | changes)}")
    assert status == 200
    return json.loads(body, parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "smoothing"), [(2, "abs"), (3, "clip")])
@pytest.mark.parametrize(
    ("x", "y", "epsilon", "alpha"),
    [
        ((1.3, 0.7), 1.0, 0.1, 0.05),
        ((1.3, 0.7), 1.0, 1e-4, 0.05),
        ((-0.4, 1.9), -0.6, 0.03, 0.2),
        ((0.0, 1.5), 2.0, 0.5, 0.01),
    ],
)
def test_numbers_are_those_of_the_public_functions(x, y, epsilon, alpha, depth, smoothing):
    words = {"x1": x[0], "x2": x[1], "y": y, "epsilon": epsilon, "alpha": alpha, "depth": depth}
    asked = read({name: str(value) for name, value in words.items()} | {"smoothing": smoothing})
    answer, curve = answer_case(asked), answer_curve(asked)
    problem = jms.Problem.from_blocks([x], [y])

    def limit(epsilon):
        return jms.solve_limit(problem, jms.SmoothedSign(epsilon, smoothing), alpha, depth=depth)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)

    truth, flow = limit(epsilon), answer["trajectory"]
    assert answer["result"] == flow["result"] == "successful"
    close(answer["beta"], truth.beta)
    close(answer["minimizer"], jms.bregman_minimizer(problem, truth))
    close(answer["kkt_error"], jms.kkt(problem, truth).error)
    close(answer["bregman_gap"], jms.bregman_gap(problem, truth))
    found = jms.solve_trajectory(
        problem, jms.SmoothedSign(epsilon, smoothing), alpha, depth=depth, ts=flow["ts"]
    )
    close(flow["beta"], found.beta.T)
    close(flow["dual"], found.dual.T)
    close(flow["residual"], found.residual[:, 0])
    close(flow["warmup_end"], np.max(found.warmup_end))
    close(flow["sign_end"], found.sign_end)
    # The whole path and the minimiser are in the square; little is left to see after its end.
    (left, right), (low, high) = np.sort(answer["box"])
    for first, second in [*zip(*flow["beta"], strict=True), answer["minimizer"]]:
        assert left < first < right and low < second < high
    left_over = np.interp(flow["view_end"], flow["ts"], np.abs(flow["residual"]))
    assert left_over <= 1.001e-3 * abs(y)
    # The fourth level set is that of D(β*).
    assert len(answer["levels"]) == 9
    touching = answer["levels"][3]
    close(touching["level"], jms.bregman(truth, jms.bregman_minimizer(problem, truth)))
    for point in touching["lines"][0][::10]:
        value = jms.bregman(truth, jax.numpy.asarray(point))
        np.testing.assert_allclose(value, touching["level"], rtol=0.02)
    for k in (0, 24, 40, 56):
        place = np.flatnonzero(curve["epsilon"] == EPSILONS[k])
        close(curve["kkt_error"][place], jms.kkt(problem, limit(EPSILONS[k])).error)


def test_a_curve_reaches_zero_where_the_error_does():
    curve = answer_curve(read(QUESTION, curve=True))
    (zero,) = curve["epsilon"][curve["kkt_error"] == 0]
    assert np.isclose(zero, 0.2095791, rtol=0.02)  # between two of the drawn ε
    assert np.all(np.diff(curve["epsilon"]) > 0) and len(curve["kkt_error"]) == len(EPSILONS) + 1


def test_a_move_traces_and_compiles_nothing(port, caplog, record_testsuite_property):
    ask(port), ask(port, "/curve")
    moves = [
        {"epsilon": "1e-5"}, {"epsilon": "3"}, {"alpha": "0.4"}, {"x1": "-0.2"}, {"x2": "0"},
        {"y": "-1.7"}, {"x1": "1e3", "epsilon": "17"},
    ]  # fmt: skip
    spent = []
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        for move in moves:
            begin = time.perf_counter()
            assert ask(port, **move)["result"] == "successful"
            spent.append(time.perf_counter() - begin)
            assert min(ask(port, "/curve", **move)["kkt_error"]) >= 0
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if re.search("tracing|compil", line, re.IGNORECASE)]
    record_testsuite_property("explore: ms per answer", [round(1e3 * one, 1) for one in spent])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": ""}, "epsilon must be a finite number such as 0.1, but is ''."),
        ({"epsilon": "nan"}, "epsilon must be a finite number"),
        ({"epsilon": "1e999"}, "epsilon must be a finite number"),
        ({"epsilon": "0"}, "epsilon must be positive and finite, but is 0.0."),
        ({"alpha": "-1"}, "alpha must be positive"),
        ({"alpha": "__import__('os').getpid()"}, "alpha must be a finite number"),
        ({"y": "9" * 1000}, "y must be a finite number"),
        ({"y": "0"}, "y is 0"),
        ({"x1": "2\n3"}, "x1 must be a finite number"),
        ({"x1": "0", "x2": "-0.0"}, "x1 and x2 are both 0"),
        ({"depth": "2.5"}, "depth must be a whole number from 2 to 8, but is 2.5."),
        ({"depth": "9"}, "depth must be a whole number from 2 to 8"),
        ({"depth": "1e30"}, "depth must be a whole number from 2 to 8"),
        ({"smoothing": "print"}, "smoothing must be one of 'abs', 'sqrt', 'tanh', 'clip'"),
    ],
)
def test_bad_input_is_one_line(changes, message, port):
    for path in ("/case", "/curve"):
        if path == "/curve" and "epsilon" in changes:
            continue
        answer = ask(port, path, **changes)
        assert list(answer) == ["error"] and answer["error"].startswith(message)
        assert "\n" not in answer["error"] and len(answer["error"]) < 200


def test_a_failed_solve_is_a_sentence_and_no_number(port):
    answer = ask(port, epsilon="1e-300")
    assert "Try increasing `max_steps`" in answer["result"]
    assert "Try increasing `max_steps`" in answer["trajectory"]["result"]
    assert answer["kkt_error"] is None and answer["beta"] == [None, None]
    assert answer["levels"] == [] and set(answer["trajectory"]["beta"][0]) == {None}


def test_only_this_machine_and_its_own_page_are_answered(port):
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
        assert get(port, "/", {"Host": host})[0] == 400
    path = f"/case?{urlencode(QUESTION)}"
    for site in ("cross-site", "same-site"):
        assert get(port, path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert get(port, path, {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"})[0] == 200
    status, headers, body = get(port, "/", {"Origin": "https://evil.example"})
    assert status == 200 and b"<title>jaxmd_sign explorer</title>" in body
    assert not [name for name in headers if name.startswith("access-control")]
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
    for path in ("/../_server.py", "/%2e%2e/_server.py", "/..%2f_server.py", "/nothing"):
        assert get(port, path)[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(port, "/case", method=method)[0] == 405
    with _server.bind(0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A store of 8 × 3 cases, of which one failed and one is still to do."""
    import zarr

    path = tmp_path_factory.mktemp("explore") / "s.zarr"
    problem, epsilon = jms.Problem([[1.3, 0.7]], [1.0]), np.geomspace(1e-3, 1, 8)
    jms.sweep(problem, epsilon[::-1], ALPHAS, store=path)
    codes = zarr.open_group(path, mode="r+")["result"]
    codes[2, 0], codes[5, 1] = 1, -1  # the numbers beside them stay
    return path


def test_map_of_a_store(swept, port):
    found = _heat_map.heat_map(str(swept))
    np.testing.assert_allclose(found["epsilon"], np.geomspace(1e-3, 1, 8))
    assert found["kkt_error"].shape == (3, 8) and list(found["alpha"]) == ALPHAS
    assert (found["cases"], found["failed"], found["to_do"]) == (24, 1, 1)
    for (j, i), code in (((0, 5), 1), ((1, 2), -1)):
        assert found["result"][j, i] == code and np.isnan(found["kkt_error"][j, i])
        assert found["codes"][code][1]
    assert np.isfinite(found["kkt_error"]).sum() == 22
    (pair,) = found["pairs"]
    assert (pair["x"], pair["y"]) == ([1.3, 0.7], 1.0)
    # A cell is the case that a click on it asks for.
    answer = ask(port, epsilon=repr(float(found["epsilon"][3])), alpha="0.1")
    assert np.isclose(answer["kkt_error"], found["kkt_error"][2, 3], rtol=1e-5)


def test_map_is_served(swept, port):
    with serving(str(swept)) as other:
        answer = ask(other, "/store")
    assert answer["kkt_error"][0][5] is None and answer["result"][0][5] == 1
    assert ask(port, "/store") == {}  # where there is no store


def edited(swept, tmp_path, change):
    """A copy of the store with other books."""
    path = tmp_path / "edited.zarr"
    shutil.copytree(swept, path)
    books = path / ".sweep" / "manifest.json"
    manifest = json.loads(books.read_text())
    change(manifest)
    books.write_text(json.dumps(manifest))
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"product": False}, "zips ε with α, and has no map"),
        ({"variables": ["beta"]}, "has no kkt_error"),
        ({"problem": {"problems": 2}}, "holds several problems"),
    ],
)
def test_a_store_without_a_map_is_one_line(change, message, swept, tmp_path, capsys):
    path = edited(swept, tmp_path, lambda manifest: manifest["identity"].update(change))
    assert main(["explore", "--store", path, "--no-browser"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "edited.zarr" in err and err.count("\n") == 1


def test_rows_of_two_numbers_are_offered(swept, tmp_path):
    def blocks(manifest):
        manifest["data"] = {
            "X": [[0, 0.5, 0, 2.0, 0], [1.0, 0, 0, 0, 0], [0, 0, -1.0, 0, 0.25]],
            "y": [1.0, 1.0, -3.0],
        }

    pairs = _heat_map.heat_map(edited(swept, tmp_path, blocks))["pairs"]
    assert pairs == [
        {"row": 1, "x": [0.5, 2.0], "y": 1.0},
        {"row": 3, "x": [-1.0, 0.25], "y": -3.0},
    ]


def test_a_store_of_before_or_of_a_general_X_has_no_rows(swept, tmp_path):
    path = edited(swept, tmp_path, lambda manifest: manifest.pop("data"))
    assert _heat_map.heat_map(path)["pairs"] == []
    shutil.rmtree(path)

    def general(manifest):
        manifest["identity"]["problem"]["blocks"] = False

    path = edited(swept, tmp_path, general)
    assert _heat_map.heat_map(path)["pairs"] == []


def test_a_large_map_is_thinned_to_what_a_screen_shows():
    values = np.geomspace(1, 10, 1000)[::-1]
    thinned = values[_heat_map._thinned(values)]
    assert len(thinned) == 300 and np.all(np.diff(thinned) > 0)
    assert (thinned[0], thinned[-1]) == (values.min(), values.max())


def test_bad_words_are_one_line_and_status_2(tmp_path, capsys):
    with socket.create_server((_server.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        for words, message in (
            (("--store", str(tmp_path / "none.zarr")), "none.zarr: does not exist"),
            (("--port", "70000"), "port must be from 0 to 65535"),
            (("--port", str(port)), f"port {port} cannot be used (Address already in use)"),
        ):
            assert main(["explore", "--no-browser", *words]) == 2
            out, err = capsys.readouterr()
            assert out == "" and message in err and err.count("\n") == 1


def test_the_command_serves_until_interrupted():
    # In the background, shells make a process deaf to SIGINT.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from jaxmd_sign._cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "explore", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        port = int(re.fullmatch(r"http://127.0.0.1:(\d+) \(Ctrl-C ends it\)\n", line).group(1))
        assert get(port, "/")[0] == get(port, "/explore.js")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
