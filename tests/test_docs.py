"""The documentation: what it says runs, names what there is, and reads without a network."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxmd_sign
from jaxmd_sign._cli import main

ROOT = Path(jaxmd_sign.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path, language):
    """The fenced blocks of a page in one language."""
    return [code for found, code in BLOCK.findall(path.read_text("utf-8")) if found == language]


def support(name):
    """A module of `docs/support`."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "support" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    # The page on tuning is run by `test_tuning.py`, which looks at more of what it finds.
    [page for page in PAGES if blocks(page, "python") and page.stem != "tuning"],
    ids=lambda page: page.stem,
)
def test_python_of_a_page_runs(page, monkeypatch, capsys):
    """From top to bottom, as a reader would paste it, at the root of the repository."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": page.stem}
    for i, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name}, block {i}", "exec"), names)
        for line in code.splitlines():  # what a comment promises of a print
            promised = re.search(r"print\((.*)\)  # (-?\d\S*?)[,:;]?(?: |$)", line)
            if promised:
                value = np.ravel(eval(f"({promised[1]},)", names)[0])[0]
                digits = len(promised[2].partition(".")[2])
                assert round(float(value), digits) == float(promised[2]), line


@pytest.mark.slow
def test_commands_of_the_quick_start_run(tmp_path, monkeypatch, capsys):
    """All but those that clone and install, in one folder, in order."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for code in blocks(DOCS / "quickstart.md", "sh"):
        program, *words = shlex.split(code.replace("\\\n", " "), comments=True)
        if program == ".venv/bin/jaxmd-sign":
            assert main(words) == 0
            ran += 1
        elif words[:1] == ["-c"]:
            subprocess.run([sys.executable, *words], check=True)
            ran += 1
    assert ran == 5
    assert (tmp_path / "mine.png").stat().st_size > 10_000


def test_every_public_name_is_on_one_api_page():
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    named = re.findall(r"^::: jaxmd_sign\.(\w+)$", pages, re.MULTILINE)
    assert sorted(named) == sorted(jaxmd_sign.__all__)
    index = (DOCS / "api" / "index.md").read_text("utf-8")
    called = {name for name in jaxmd_sign.__all__ if ">>>" in getattr(jaxmd_sign, name).__doc__}
    assert {name for name in called if f"`{name}`" not in index} == set()


def test_every_result_has_its_remedy():
    text = (DOCS / "errors.md").read_text("utf-8")
    for name in jaxmd_sign.RESULTS._name_to_item:
        assert re.search(rf"^\| .*`{name}`.* \|$", text, re.MULTILINE), name


def test_every_error_that_is_explained_exists():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "jaxmd_sign").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # one message over several lines
    table = (DOCS / "errors.md").read_text("utf-8").partition("## `ValueError`s")[2]
    messages = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert len(messages) > 20
    assert [message for message in messages if message not in source] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return {
        path.relative_to(out).as_posix(): path.read_text("utf-8") for path in out.rglob("*.html")
    }


def test_the_site_loads_nothing_from_afar(site):
    afar = support("hooks").loaded_from_afar
    assert [page for page, text in site.items() if afar(text)] == []
    # what the check must find
    for text in (
        '<script src="https://cdn.example/x.js">',
        "<script async src=//cdn.example/x.js>",
        '<link href="https://fonts.example/css" rel="stylesheet">',
        '<img alt="" src="http://a.example/x.png">',
        "@import url(https://fonts.example/css);",
        "src: url('//fonts.example/x.woff2')",
    ):
        assert afar(text), text
    assert not afar('<a href="https://docs.jax.dev">JAX</a><img src="figures/x.png">')


def test_formulas_are_mathml(site):
    text = site["mathematics.html"]
    written = (DOCS / "mathematics.md").read_text("utf-8").count("$$") // 2
    assert text.count('<math display="block">') == written > 10
    for number in ("7", "8", "9", "10", "11", "12", "13", "14", "15"):
        assert f"<mtext>({number})</mtext>" in text, number
    for page, text in site.items():
        assert 'class="arithmatex"' not in text, page
        prose = re.sub(r"<code.*?</code>", "", text, flags=re.DOTALL)
        assert not re.search(r"\$\S[^<>$]*\\\w", prose), page  # LaTeX that nothing took up


def test_api_pages_show_signatures_arguments_and_examples(site):
    pages = {page: text for page, text in site.items() if page.startswith("api/")}
    for name in jaxmd_sign.__all__:
        page = [page for page, text in pages.items() if f'id="jaxmd_sign.{name}"' in text]
        assert len(page) == 1, name
    limits = pages["api/limits.html"]
    assert '<p class="admonition-title">Example</p>' in limits
    assert "&gt;&gt;&gt; " in limits and "!!! example" not in limits
    assert "<blockquote>" not in "".join(pages.values())  # what Markdown makes of a bare doctest
    assert "max_steps" in limits and "65536" in limits


def test_notebooks_are_pages_with_their_outputs(site):
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        text = site[f"notebooks/{notebook.stem}.html"]
        assert "data:image/png;base64," in text, notebook.name
