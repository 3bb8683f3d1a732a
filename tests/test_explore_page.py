"""The explorer's page in a real, headless Chromium: whatever can be moved moves something."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from test_explore import serving

import jaxmd_sign as jms

ROOT = Path(jms.__file__).parents[1]
SHOTS = ROOT / "out"  # copied by hand to docs/figures when the page has changed
SIZE = {"width": 1280, "height": 960}
PATIENCE = 300_000  # ms; a first answer waits for its program to be compiled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    found = [path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))]
    if not found:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("No chromium on the path: install it, e.g. apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found[0])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """30 × 12 cases; one failed, though the number beside its code stands."""
    import zarr

    path = tmp_path_factory.mktemp("page") / "sweep.zarr"
    problem = jms.Problem([[1.3, 0.7]], [1.0])
    jms.sweep(problem, np.geomspace(1e-4, 3, 30), np.geomspace(1e-2, 0.5, 12), store=path)
    zarr.open_group(path, mode="r+")["result"][4, 9] = 1
    return path


@pytest.fixture(scope="module")
def address(store):
    with serving(str(store)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


@contextlib.contextmanager
def opened(browser, address):
    """The page with its first answer; whatever goes wrong in it fails the test."""
    context = browser.new_context(viewport=SIZE, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#status[data-milliseconds]")
    for part in ("#curve path.curve", "#heat rect.frame-line"):
        page.wait_for_selector(part)
    yield page
    context.close()
    assert wrong == []
    assert asked
    assert all(url.startswith(f"{address}/") for url in asked)


@contextlib.contextmanager
def of_store(browser, path):
    with serving(str(path)) as port, opened(browser, f"http://127.0.0.1:{port}") as page:
        yield page


def drawn(page, name):
    return page.locator(f"#{name} svg").inner_html()


def text(page, name):
    return page.locator(f"#{name}").inner_text()


def settle(page, name, before):
    """The text of an element once it is another."""
    page.wait_for_selector(f"#{name}:not(:text-is('{before}'))")
    return text(page, name)


def value(words):
    return float(words.replace("−", "-"))


def test_a_slider_changes_every_picture_and_the_number(page, record_testsuite_property):
    assert value(text(page, "kkt-error")) == pytest.approx(0.1023833, abs=1e-6)
    pictures = ("plane", "primal", "dual", "curve")
    before, number = {name: drawn(page, name) for name in pictures}, text(page, "kkt-error")
    page.locator("#epsilon-slider").focus()
    for _ in range(40):  # by the keyboard: 1/1000 of the way each
        page.keyboard.press("ArrowLeft")
    number = settle(page, "kkt-error", number)
    page.wait_for_timeout(300)  # the last of the answers
    epsilon = float(page.locator("#epsilon").input_value())
    assert 0.04 < epsilon < 0.06
    problem = jms.Problem([[1.3, 0.7]], [1.0])
    limit = jms.solve_limit(problem, jms.SmoothedSign(epsilon), 0.05)
    truth = float(jms.kkt(problem, limit).error)
    page.wait_for_selector(f"#kkt-error:text-is('{float(f'{truth:.6g}')}')")
    assert all(drawn(page, name) != before[name] for name in pictures)
    spent = page.locator("#status").get_attribute("data-milliseconds")
    record_testsuite_property("explore: ms from a slider's move to its picture", spent)


def test_typed_data_and_bad_data(page):
    before = text(page, "beta")
    page.locator("#x1").fill("-0.5")
    assert settle(page, "beta", before).startswith("(−")
    page.locator("#x1").fill("alert(1)")
    page.wait_for_selector("#status.wrong")
    assert "x1 must be a finite number such as 0.1, but is 'alert(1)'" in text(page, "status")
    assert text(page, "kkt-error") == "–" and "no solution" in drawn(page, "plane")
    assert page.locator("#x1").get_attribute("aria-invalid") == "true"
    page.locator("#x1").fill("1.3")
    page.wait_for_selector("#kkt-error:text-is('0.102383')")
    page.locator("#epsilon").fill("1e-300")
    page.wait_for_selector("#status.wrong:has-text('max_steps')")
    assert text(page, "kkt-error") == "–" and "no solution" in drawn(page, "primal")


def test_play_runs_the_flow_to_its_end(page):
    page.locator("#play").click()
    page.wait_for_selector("#play:text-is('Pause')")
    places = []
    for _ in range(4):
        page.wait_for_timeout(400)
        places.append(float(page.locator("#plane circle").last.get_attribute("cx")))
    assert np.all(np.diff(places) > 0)
    page.wait_for_selector("#play:text-is('Play')")
    end = float(page.locator("#plane circle").last.get_attribute("cx"))
    assert end > places[-1] and page.locator("#time").input_value() == "1000"
    page.locator("#time").fill("0")  # dragged to the start, where β = 0
    assert "β = (0, 0)" in text(page, "now")


def click(page, i, j):
    """Click the cell of the i-th ε and j-th α of 30 × 12."""
    box = page.locator("#heat rect.frame-line").bounding_box()
    x = box["x"] + box["width"] * (i + 0.5) / 30
    page.mouse.click(x, box["y"] + box["height"] * (1 - (j + 0.5) / 12))


def test_a_click_on_the_map_shows_that_case(page, store):
    assert page.locator("#heat canvas").evaluate("canvas => canvas.width") > 500
    before, path = text(page, "kkt-error"), drawn(page, "plane")
    click(page, 14, 6)
    number = settle(page, "kkt-error", before)
    assert drawn(page, "plane") != path
    import xarray as xr

    with xr.open_zarr(store) as dataset:
        case = dataset.kkt_error[14, 6].load()
    assert value(number) == pytest.approx(case.item(), rel=1e-5)
    for name in ("epsilon", "alpha"):
        there = float(page.locator(f"#{name}").input_value())
        assert there == pytest.approx(case[name].item(), rel=1e-3)
        assert float(page.locator(f"#{name}").get_attribute("title")) == case[name].item()
    assert page.locator("#heat rect.chosen").count() == 1  # the same to the last digit
    SHOTS.mkdir(exist_ok=True)
    page.mouse.move(0, 0)
    page.locator("#time").fill("620")
    page.screenshot(path=SHOTS / "explorer.png", full_page=True)
    # Keys move from cell to cell.
    page.locator("#heat svg").focus()
    page.keyboard.press("ArrowRight")
    settle(page, "kkt-error", number)


def test_a_failed_cell_is_shown_as_failed(page):
    assert "failed: 1" in drawn(page, "heat")
    click(page, 4, 9)
    page.wait_for_selector("#cell.wrong:has-text('max_steps_reached')")
    assert not re.search("KKT error", text(page, "cell"))


def test_numbers_of_a_store_fit_their_boxes_and_lose_no_digit(browser, tmp_path):
    x, y = (-0.0012345678901234567, 0.7654321098765432), 0.3333333333333333
    jms.sweep(jms.Problem([x], [y]), [0.1], [0.05], store=tmp_path / "s.zarr")
    asked = []
    with of_store(browser, tmp_path / "s.zarr") as page:
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_selector("#x1[title]:not([title=''])")
        for name, number in zip(("x1", "x2", "y"), (*x, y), strict=True):
            box = page.locator(f"#{name}")
            assert float(box.input_value()) == pytest.approx(number, rel=1e-3)
            assert float(box.get_attribute("title")) == number
            assert box.evaluate("box => box.scrollWidth <= box.clientWidth"), name
        page.locator("#epsilon").fill("0.2")
        page.wait_for_selector("#status[data-milliseconds]")
        page.wait_for_timeout(300)
        sent = parse_qs(urlparse(asked[-1]).query)
        assert [float(sent[name][0]) for name in ("x1", "x2", "y")] == [*x, y]
        page.locator("#x2").fill("0.5")  # what is typed counts from then on
        page.wait_for_timeout(300)
        assert parse_qs(urlparse(asked[-1]).query)["x2"] == ["0.5"]


def test_a_general_store_promises_no_flow_of_its_own(browser, tmp_path):
    problem = jms.Problem([[1.0, 0.5, 0.2], [0.3, -1.0, 0.4]], [1.0, 0.5])
    jms.sweep(problem, [0.1, 0.2], [0.1], store=tmp_path / "s.zarr", rtol=1e-3)
    with of_store(browser, tmp_path / "s.zarr") as page:
        assert "the flow is that of x and y at the left" in text(page, "cell")
        assert "its flow" not in text(page, "cell")


def test_nothing_runs_out_of_a_narrow_page(page):
    page.set_viewport_size({"width": 420, "height": 900})
    page.locator("#time").fill("617")
    for name in ("#now", "#controls", "#heat", "#curve"):
        box, card = page.locator(name).bounding_box(), page.locator("main").bounding_box()
        assert box["x"] + box["width"] <= card["x"] + card["width"], name
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
