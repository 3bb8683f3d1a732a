"""Stores of sweeps: whole after any death, gone on with, and never mixed with other settings."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._sweep import _api, _run, _store
from jaxmd_sign._sweep._api import Outcome
from jaxmd_sign._sweep._command import summary
from jaxmd_sign._sweep._manifest import read_manifest, read_marks
from jaxmd_sign._sweep._plan import Chunk
from jaxmd_sign._sweep._status import status

ROOT = Path(jms.__file__).parents[1]
PROBLEM = jms.Problem([[1.3, 0.7]], [1.0])
EPSILON, ALPHA = np.geomspace(1e-4, 1, 12), np.geomspace(0.01, 0.1, 5)


def fake(problems, settings, which, epsilon, alpha):
    """Numbers that say which case they are of; cases of α below max_steps / 1000 fail."""
    failed = alpha * 1000 > settings.max_steps
    which = np.zeros(len(epsilon), int) if which is None else which
    value = np.where(failed, np.nan, epsilon + 10 * alpha + 100 * which)
    values = {name: value.astype(settings.dtype) for name in settings.variables}
    values["beta"] = value[:, None] * np.ones(problems.num_features)
    values["result"] = failed.astype("int8")
    values["num_steps"] = np.ones(len(epsilon), "int32")
    return {name: values[name] for name in settings.variables}


@pytest.fixture
def solves(monkeypatch):
    """Stand-in for the solver: books and files are tested here, and it counts what it solves."""
    counted = []

    def count(*arguments):
        counted.append(len(arguments[-1]))
        return partial(fake, *arguments)

    monkeypatch.setattr(_run, "start_cases", count)
    return counted


def sweep(store, **changes):
    given = {"problem": PROBLEM, "epsilon": EPSILON, "alpha": ALPHA, "chunk_size": 10}
    return jms.sweep(**(given | changes), store=store)


def opened(store):
    with xr.open_zarr(store) as dataset:
        return dataset.load()


def test_store_holds_what_memory_holds(tmp_path):
    """The only test here that solves in this process."""
    expected = jms.sweep(PROBLEM, EPSILON, ALPHA, chunk_size=10)
    found = sweep(tmp_path / "s.zarr")
    xr.testing.assert_identical(found.load(), expected)
    xr.testing.assert_identical(opened(tmp_path / "s.zarr"), expected)
    assert expected.kkt_error.dims == ("epsilon", "alpha")
    assert expected.epsilon.attrs["long_name"] == "stability constant ε"
    assert expected.attrs["rtol"] == 1e-6 and "source" in expected.attrs


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 10, 13, 60, 1000])
def test_every_layout_is_the_same_in_memory_and_in_a_store(
    several, product, chunk_size, tmp_path, solves
):
    arguments = {
        "problem": [PROBLEM, PROBLEM] if several else PROBLEM,
        "epsilon": EPSILON if product else EPSILON[:5],
        "product": product,
        "chunk_size": chunk_size,
    }
    found = sweep(tmp_path / "s.zarr", **arguments).load()
    xr.testing.assert_identical(found, sweep(None, **arguments))
    assert np.all(found.result == 0)
    expected = found.epsilon + 10 * found.alpha
    if several:
        expected = expected + 100 * xr.DataArray([0, 1], dims="problem")
    np.testing.assert_allclose(found.bregman, expected.transpose(*found.bregman.dims))


def test_without_consolidated_metadata_arrays_are_plain_zarr(tmp_path, solves):
    import zarr

    sweep(tmp_path / "s.zarr")
    array = zarr.open_array(tmp_path / "s.zarr" / "beta", mode="r")
    assert array.chunks == (2, 5, 2) and array.nchunks_initialized == array.nchunks == 6
    assert array.metadata.dimension_names == ("epsilon", "alpha", "feature")


def test_what_is_done_is_not_solved_again(tmp_path, solves):
    first = sweep(tmp_path / "s.zarr").load()
    assert len(solves) == 6
    xr.testing.assert_identical(sweep(tmp_path / "s.zarr", chunk_size=None).load(), first)
    assert len(solves) == 6
    (tmp_path / "s.zarr" / ".sweep" / "done" / "3.json").unlink()
    sweep(tmp_path / "s.zarr")
    assert len(solves) == 7
    # What was lost or cut short on the way to another disk is.
    next((tmp_path / "s.zarr" / "beta").glob("c.1.0*")).unlink()
    (tmp_path / "s.zarr" / ".sweep" / "done" / "5.json").write_text('{"cas')
    assert status(tmp_path / "s.zarr")["to_do"] == 10
    xr.testing.assert_identical(sweep(tmp_path / "s.zarr").load(), first)
    assert len(solves) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rtol": 1e-8}, "rtol was 1e-06, now is 1e-08"),
        ({"reference": "warmup"}, "reference was start, now is warmup"),
        ({"epsilon": EPSILON[:7]}, "epsilon was 12 values from 0.0001 to 1, now is 7 values"),
        ({"alpha": ALPHA * 2}, "alpha was 5 values from 0.01 to 0.1, now is 5 values from 0.02"),
        (
            {"problem": jms.Problem([[1.3, 0.8]], [1.0])},
            r"problem was block-diagonal X \(1 × 2\), now is other",
        ),
        ({"variables": ["beta"]}, "variables was kkt_error, .* now is beta, result"),
        ({"chunk_size": 5}, "has chunks of 2 × 5 cases, not of chunk_size"),
        ({"max_steps": 100}, "max_steps is 100, but store .* was written with 65536"),
        ({"resume": False}, "exists, and resume is False"),
    ],
)
def test_a_store_of_other_settings_is_refused(changes, message, tmp_path, solves):
    before = sweep(tmp_path / "s.zarr").load()
    with pytest.raises(ValueError, match=message) as error:
        sweep(tmp_path / "s.zarr", **changes)
    assert "\n" not in str(error.value)
    assert len(solves) == 6
    xr.testing.assert_identical(opened(tmp_path / "s.zarr"), before)


def test_what_is_no_store_is_left_alone(tmp_path, solves):
    (tmp_path / "folder").mkdir()
    sweep(tmp_path / "folder")  # an empty folder is nothing
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file: is a file, not a store"):
        sweep(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="full: is not a store of sweep"):
        sweep(tmp_path / "full")
    with pytest.raises(ValueError, match="cannot be written"):
        sweep(tmp_path / "file" / "inside")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["file", "folder", "full"]


def test_failed_cases_are_solved_again_with_more_steps(tmp_path, solves):
    found = sweep(tmp_path / "s.zarr", max_steps=50, chunk_size=1).load()
    assert np.sum(found.result == 1) == 24 and found.kkt_error.isnull().sum() == 24
    assert len(solves) == 60
    again = sweep(tmp_path / "s.zarr", max_steps=80, chunk_size=1).load()
    assert len(solves) == 84 and np.sum(again.result == 1) == 12
    whole = sweep(tmp_path / "s.zarr", chunk_size=None).load()
    assert len(solves) == 96
    xr.testing.assert_identical(whole, sweep(None))
    assert read_manifest(tmp_path / "s.zarr")["max_steps"] == 65536


def test_interrupted_from_the_keyboard(tmp_path, solves, monkeypatch):
    put = _store.Writer.put

    def interrupt(self, chunk, values):
        put(self, chunk, values)
        if len(solves) >= 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_store.Writer, "put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path / "s.zarr")
    done = len(read_marks(tmp_path / "s.zarr"))
    assert 1 <= done < 6
    xr.testing.assert_identical(sweep(tmp_path / "s.zarr").load(), sweep(None))


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, solves, monkeypatch):
    write = _store.write_chunk

    def full(path, tile, chunk, values):
        if chunk.index == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, tile, chunk, values)

    with monkeypatch.context() as patch:
        patch.setattr(_store, "write_chunk", full)
        with pytest.raises(ValueError, match=r"cannot be written or read \(No space left"):
            sweep(tmp_path / "s.zarr")
    assert 2 not in read_marks(tmp_path / "s.zarr")
    xr.testing.assert_identical(sweep(tmp_path / "s.zarr").load(), sweep(None))


def test_parts_of_zarr_chunks_are_never_written(tmp_path):
    with pytest.raises(AssertionError, match="parts of Zarr chunks"):
        _store.write_chunk(
            tmp_path, (2, 5), Chunk(0, (1, 0), (2, 5), 5, 15), {"beta": np.zeros(10)}
        )


def test_zarr_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxmd-sign\[store\]'"):
        sweep(tmp_path / "s.zarr")


SCRIPT = f"""
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", {str(ROOT / ".pytest_cache" / "jax")!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import jaxmd_sign as jms
jms.sweep(jms.Problem([[1.3, 0.7]], [1.0]), np.geomspace(1e-4, 1, 64), np.geomspace(0.01, 0.1, 40),
          chunk_size=16, store=sys.argv[1])
"""


@pytest.mark.slow
def test_killed_again_and_again_the_store_is_what_it_would_have_been(tmp_path):
    moments, store, done = random.Random(4), tmp_path / "killed.zarr", 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, store], cwd=ROOT)
        wanted = done + moments.randint(1, 50)
        while process.poll() is None and (now := _count(store)) < wanted:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was quicker than the test"
        assert _count(store) >= now >= done
        done = _count(store)
    assert 0 < status(store)["to_do"] < 2560
    axes = np.geomspace(1e-4, 1, 64), np.geomspace(0.01, 0.1, 40)
    found = jms.sweep(PROBLEM, *axes, store=store)
    assert status(store)["done"] == 2560
    whole = jms.sweep(PROBLEM, *axes, chunk_size=16, store=tmp_path / "whole.zarr")
    xr.testing.assert_identical(found.load(), whole.load())


def _count(store):
    folder = store / ".sweep" / "done"
    return len(list(folder.glob("*.json"))) if folder.is_dir() else 0


# The command line.

CASE = ("--data", "example.csv", "--epsilon", "1e-3:1e-1:4", "--alpha", "0.01:0.1:3")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.csv").write_text("a,b,y\n1.3,0.7,1\n")
    return tmp_path


def test_sweep_of_the_command_line(folder, solves, capsys):
    assert main(["sweep", *CASE, "--out", "s.zarr", "--plot", "p.png"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("12 cases, 0 failed, ") and out.endswith(" cases/s\n")
    found = opened("s.zarr")
    np.testing.assert_allclose(found.epsilon, np.geomspace(1e-3, 1e-1, 4))
    assert found.sizes["alpha"] == 3 and (folder / "p.png").stat().st_size > 10_000
    assert main(["sweep", *CASE, "--out", "s.zarr"]) == 0
    assert capsys.readouterr().out == "12 cases, 0 failed, 12 of them there before\n"


def test_failed_cases_are_named_after_everything_else_stands(folder, solves, capsys):
    status_code = main(["sweep", *CASE, "--out", "s.zarr", "--max-steps", "20"])
    out, err = capsys.readouterr()
    assert status_code == 1 and out.startswith("12 cases, 8 (max_steps_reached 8) failed")
    assert err.startswith(
        "jaxmd-sign: s.zarr: 8 of 12 cases failed; the first is epsilon = 0.001, alpha = 0.0316228:"
    )
    assert "Raise max_steps (--max-steps)" in err and err.count("\n") == 1
    assert np.sum(opened("s.zarr").result == 0) == 4
    assert main(["status", "s.zarr", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["failed"], report["to_do"]) == (4, {"max_steps_reached": 8}, 0)
    assert main(["sweep", *CASE, "--out", "s.zarr"]) == 0


@pytest.mark.parametrize(
    ("cases", "seconds", "words"),
    [(5, 14.0, "0.357"), (50, 1.0, "50"), (99_960, 1e3, "100"), (5 * 10**6, 2.0, "2,500,000")],
)
def test_slow_sweeps_have_a_speed_too(cases, seconds, words, without_type_checks):
    outcome = Outcome(None, None, {"cases": cases, "failed": {}}, cases, seconds)
    assert summary(outcome).endswith(f" s, {words} cases/s")


@pytest.mark.parametrize("alpha", ["0.05", "0.01:0.5:20"])
def test_figures_of_every_kind(alpha, folder, solves):
    words = ["--data", "example.csv", "--epsilon", "1e-3:1:9", "--alpha", alpha]
    assert main(["sweep", *words, "--out", "s.zarr", "--plot", "p.pdf"]) == 0
    assert (folder / "p.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epsilon", "1:2"), "epsilon must be a positive number, or LO:HI:N"),
        (("--epsilon", "1:2:3:4"), "epsilon must be a positive number, or LO:HI:N"),
        (("--epsilon", "0:1:5"), "epsilon must be a positive number, or LO:HI:N"),
        (("--epsilon", "0.1:1:0"), "epsilon must be a positive number, or LO:HI:N"),
        (("--epsilon", "small"), "epsilon must be a positive number, or LO:HI:N"),
        (("--epsilon", "-1"), "epsilon must be positive and finite"),
        (("--alpha", "inf:1:3"), "alpha must be a positive number, or LO:HI:N"),
        (("--rtol", "0"), "rtol must be a number from"),
        (("--max-steps", "0"), "max_steps must be a positive whole number"),
        (("--variables", "beta,gamma"), "variables has no 'gamma'"),
        (("--plot", "p.txt"), "plot must end in .png, .pdf, .svg"),
        (("--plot", "none/p.png"), "plot: the folder of none/p.png does not exist"),
        (("--plot", "p.png", "--variables", "beta"), "plot needs one of the variables"),
        (("--data", "none.csv"), "none.csv: does not exist"),
        (("--out", "example.csv"), "example.csv: is a file, not a store"),
    ],
)
def test_bad_words_are_one_line_and_status_2(words, message, folder, solves, capsys):
    assert main(["sweep", *CASE, "--out", "s.zarr", *words]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == "" and solves == []
    assert [path.name for path in folder.iterdir()] == ["example.csv"]


def test_stopping_from_the_keyboard_says_how_to_go_on(folder, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_api, "_run", interrupt)
    assert main(["sweep", *CASE, "--out", "s.zarr"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_status_needs_neither_jax_nor_zarr(tmp_path, solves):
    sweep(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / ".sweep" / "done" / "3.json").unlink()
    code = (
        "import sys; from jaxmd_sign._cli import main; code = main(['status', sys.argv[1]])\n"
        "heavy = {'jax', 'numpy', 'zarr', 'xarray'} & set(sys.modules); assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.zarr")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in ("60 cases", "done      50", "failed    0", "to do     10", "(1 × 2)"):
        assert line in done.stdout


@pytest.mark.parametrize(("path", "message"), [("none", "does not exist"), (".", "is not a store")])
def test_status_of_what_is_no_store(path, message, folder, capsys):
    assert main(["status", path]) == 2
    assert message in capsys.readouterr().err


MEMORY = """
import sys, tracemalloc
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, "tests")
import test_store as given

given._run.start_cases = lambda *arguments: lambda: given.fake(*arguments)
axis, folder = np.geomspace(1e-4, 1, 400), sys.argv[1]
given.sweep(f"{folder}/first.zarr")  # what is imported at the first store is no part of this
tracemalloc.start()
given.sweep(f"{folder}/s.zarr", epsilon=axis, alpha=axis, chunk_size=2000)
print(tracemalloc.get_traced_memory()[1])
"""


def test_a_large_sweep_fits_in_little_memory(tmp_path):
    """A chunk for each thread, two that wait, one that is written: never the whole.

    In a process of its own, whose memory nothing else uses.
    """
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    peak = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert peak < 12 * 2000 * 80 + 1e6 < 160_000 * 69 / 2
