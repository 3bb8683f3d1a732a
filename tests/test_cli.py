"""The command line: exit status, one line for bad input, strict JSON, tables of 80 columns."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxmd_sign import _report
from jaxmd_sign._cli import main

EXAMPLE = "example.csv"
CASE = ("--data", EXAMPLE, "--epsilon", "0.1", "--alpha", "0.05")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own, with the worked example of §3.3.2 in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / EXAMPLE).write_text("a,b,y\n1.3,0.7,1\n")
    return tmp_path


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_help_imports_no_jax():
    code = (
        "import sys, jaxmd_sign._cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reproduce" in done.stdout and "limit" in done.stdout


@pytest.mark.slow
def test_json_report(capsys):
    assert main(["limit", *CASE, "--json"]) == 0
    out, err = capsys.readouterr()
    report = strict(out)
    assert err == "" and out.count("\n") == 1
    assert report["result"] == report["trajectory"]["result"] == "successful"
    assert (report["data"], report["epsilon"], report["alpha"]) == (EXAMPLE, 0.1, 0.05)
    assert np.isclose(report["kkt"]["error"], 0.1023833, atol=1e-7)
    assert np.isclose(np.dot(report["beta"], [1.3, 0.7]), 1, atol=1e-12)
    difference = np.subtract(report["beta"], report["minimizer"])
    assert np.isclose(report["distance_to_minimizer"], np.linalg.norm(difference))
    assert report["bregman_gap"] > 0 and report["dual_reference"] == [0.05, 0.05]
    assert report["warmup_end"] == [0, 0] and 0 < max(report["sign_end"]) < report["t_end"]
    assert report["assumptions"]["structure"] and not report["assumptions"]["smallness"]
    assert report["assumptions"]["epsilon_margin"] < 0 < report["stats"]["num_steps"][0]


def test_tables_fit_80_columns(capsys):
    assert main(["limit", *CASE]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= 80
    for text in ("KKT error", "0.102383", "3.3 ε and α small", "β*", "0.310437"):
        assert text in out


def test_label_is_chosen_by_name(folder, capsys):
    (folder / "other.csv").write_text("y,a,b\n1,1.3,0.7\n")
    assert main(["limit", "--data", "other.csv", *CASE[2:], "--label", "y", "--json"]) == 0
    assert np.isclose(strict(capsys.readouterr().out)["kkt"]["error"], 0.1023833, atol=1e-7)


@pytest.mark.slow
def test_failed_solve_names_case_and_remedy(capsys):
    assert main(["limit", *CASE, "--max-steps", "3", "--json"]) == 1
    out, err = capsys.readouterr()
    report = strict(out)
    assert report["beta"] == [None, None] and report["kkt"]["error"] is None
    assert report["result"].startswith("The maximum number of solver steps was reached.")
    assert err.count("\n") == 1 and "Try increasing `max_steps`" in err
    assert "example.csv: limit at epsilon = 0.1, alpha = 0.05" in err


def test_a_minimizer_that_was_not_found_is_a_failure(folder, monkeypatch, capsys):
    lost, about = {"minimizer": np.full(2, np.nan)}, _report._about
    monkeypatch.setattr(_report, "_about", lambda *given: about(*given) | lost)
    assert main(["limit", *CASE]) == 1
    _, err = capsys.readouterr()
    assert "minimiser at epsilon = 0.1, alpha = 0.05: Newton's method" in err


def test_warnings_are_one_line(folder, capsys):
    (folder / EXAMPLE).write_text("a,b,y\n0,0,0\n1.3,0.7,1\n")
    assert main(["limit", *CASE]) == 0
    assert capsys.readouterr().err == (
        "jaxmd-sign: X: dropped the zero rows [0] with label 0; they say nothing.\n"
    )


BAD_FILES = {
    "missing file": (None, "does not exist"),
    "binary file": (b"\xff\xfe\0\1", "is not text"),
    "empty file": (b"", "is empty"),
    "header only": (b"a,y\n", "has a header only"),
    "text": (b"a,b,y\n1,x,3\n", "line 2, column 'b' holds 'x'"),
    "NaN": (b"a,b,y\n1,nan,3\n", "line 2, column 'b' holds 'nan'"),
    "inf": (b"a,b,y\n1,2,inf\n", "line 2, column 'y' holds 'inf'"),
    "ragged": (b"a,b,y\n1,2,3\n1,2\n", "line 3 has 2 cells"),
    "one column": (b"y\n1\n", "has one column only"),
    "zero row": (b"a,b,y\n1,2,3\n0,0,1\n", "zero row 1"),
    "no interpolator": (b"a,b,y\n1,1,1\n1,1,2\n", "no interpolator"),
}


def complaint(capsys):
    """The one line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxmd-sign: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_one_line_and_status_2(case, folder, capsys):
    content, message = BAD_FILES[case]
    if content is not None:
        (folder / "bad.csv").write_bytes(content)
    assert main(["limit", "--data", "bad.csv", *CASE[2:], "--json"]) == 2
    line = complaint(capsys)
    assert message in line and "bad.csv" in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--data", "."), "must be a .csv or .npz file"),
        (("--data", "blocks:x"), "must be blocks:K:SEED or blocks:KxD:SEED"),
        (("--data", "blocks:0:1"), "num_blocks must be a positive whole number"),
        (("--label", "z"), "label 'z' names no column"),
        (("--epsilon", "0"), "epsilon must be positive and finite"),
        (("--epsilon", "-0.1"), "epsilon must be positive and finite"),
        (("--epsilon", "nan"), "epsilon must be positive and finite"),
        (("--epsilon", "inf"), "epsilon must be positive and finite"),
        (("--alpha", "0"), "alpha must be positive and finite"),
        (("--alpha", "-1"), "alpha must be positive and finite"),
        (("--alpha", "nan"), "alpha must be positive and finite"),
        (("--alpha", "inf"), "alpha must be positive and finite"),
        (("--max-steps", "0"), "max_steps must be a positive whole number"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(args, message, capsys):
    given = dict(zip(CASE[::2], CASE[1::2], strict=True)) | dict([args])
    assert main(["limit", *(word for pair in given.items() for word in pair)]) == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("limit",),
        ("limit", *CASE, "--epsilon", "small"),
        ("limit", *CASE, "--reference", "end"),
        ("reproduce",),
        ("paint",),
    ],
)
def test_parser_has_status_2(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2 and capsys.readouterr().out == ""


def test_exit_status_reaches_the_shell():
    code = "import sys; from jaxmd_sign._cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "limit", "--data", "none.csv", *CASE[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jaxmd-sign: none.csv: does not exist")


WRITERS = {
    "explain": (*CASE, "--plot", "d.png"),
    "tune": (*CASE[:2], *CASE[4:], "--plot", "d.png"),
    "sweep": (*CASE, "--out", "s.zarr", "--plot", "d.png"),
    "certify": (*CASE, "--html", "d.html"),
    "certify --random": ("--random", "2", "--out", "d.npz"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_files_that_cannot_be_written_are_found_before_the_work(what, folder, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("this takes a while")

    for module, function in (
        ("_explain._command", "solve_limit"),
        ("_tuning._command", "tune_epsilon"),
        ("_sweep._command", "run_sweep"),
        ("_certificate._command", "certify"),
        ("_certificate._command", "certify_random"),
    ):
        monkeypatch.setattr(f"jaxmd_sign.{module}.{function}", work)
    args = [what.partition(" ")[0], *WRITERS[what]]
    file = folder / args[-1]
    file.mkdir()
    assert main(args) == 2
    assert f"{args[-2][2:]}: {file.name} is a folder" in complaint(capsys)
    file.rmdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)  # root may write anywhere
    assert main(args) == 2
    assert f"{args[-2][2:]}: cannot write {file.name} (Permission denied)" in complaint(capsys)
    assert {path.name for path in folder.iterdir()} == {EXAMPLE}


def test_a_folder_in_the_way_of_a_figure(folder):
    from jaxmd_sign._files import fill_folder

    (folder / "figures" / "b.png").mkdir(parents=True)

    def write(draft):
        for name in ("a.png", "b.png"):
            (draft / name).touch()

    with pytest.raises(ValueError, match=r"out: figures/b\.png is a folder"):
        fill_folder("figures", write)
    assert [path.name for path in (folder / "figures").iterdir()] == ["b.png"]


def test_the_module_is_the_command_line():
    command = [sys.executable, "-m", "jaxmd_sign", "limit", "--data", "none.csv", *CASE[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jaxmd-sign: none.csv: does not exist")


@pytest.mark.parametrize("out", ["file", "file/inside"])
def test_output_folder_that_cannot_be_written(out, folder, capsys):
    (folder / "file").write_text("in the way")
    assert main(["reproduce", "--out", out]) == 2
    assert f"out: cannot write to the folder {out}" in complaint(capsys)


def test_failed_figure_has_status_1_and_leaves_nothing(folder, monkeypatch, capsys):
    from jaxmd_sign import _reproduce

    def fail():
        raise _reproduce.SolveError("Figure 3 (limits): no.")

    monkeypatch.setattr(_reproduce, "example_numbers", fail)
    assert main(["reproduce", "--out", "figures"]) == 1
    assert complaint(capsys) == "jaxmd-sign: Figure 3 (limits): no.\n"
    assert list((folder / "figures").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("train", "--study", "--out", "o", "--steps", "5"), "steps: the study has its own"),
        (("train", "--study", "--out", "o", "--json"), "json: the study has its own"),
        (("certify", "--random", "2", "--claim", "Lemma A.3"), "--claim names what --out saves"),
        (
            ("certify", "--random", "2", "--out", "w.npz", "--claim", "x"),
            "claim must be one of Proposition 3.4",
        ),
        (("sweep", *CASE[:2], "--epsilon", "0.1:1:1", "--alpha", "1", "--out", "s.zarr"), "LO:HI"),
        (("sweep", *CASE, "--out", ""), "out must be the path of a Zarr store, but is empty"),
        (
            ("sweep", *CASE, "--out", "."),
            ".: is not a store of sweep. Give the path of a store that",
        ),
        (
            ("limit", "--data", "", *CASE[2:]),
            "path must be that of a file, or blocks:K:SEED, but is e",
        ),
        (("status", ""), "store must be the path of a store that sweep wrote, but is empty"),
        (("train", *CASE[:2], "--steps", "0"), ": steps must be a positive whole number"),
        (("certify", "--random", "0"), ": random must be a whole number of at least 1"),
        (("tune", *CASE[:2], "--alpha", "1", "--epsilon0", "5", "--bounds", "0.1:1"), "outside"),
        (("limit", *CASE, "--max-steps", str(10**20)), "max_steps must be below 2^31"),
    ],
)
def test_options_that_would_do_nothing_are_refused(args, message, folder, capsys):
    assert main(args) == 2
    assert message in complaint(capsys)
    assert {path.name for path in folder.iterdir()} == {EXAMPLE}


def test_labels_0_leave_nothing_to_tune(folder, capsys):
    (folder / "zero.csv").write_text("a,b,y\n1.3,0.7,0\n")
    assert main(["tune", "--data", "zero.csv", "--alpha", "0.05"]) == 2
    assert "y is 0" in complaint(capsys)


def test_a_command_that_is_stopped(monkeypatch, capsys):
    from jaxmd_sign._cli._limits import Limit

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Limit, "run", interrupt)
    assert main(["limit", *CASE]) == 130
    assert complaint(capsys) == "jaxmd-sign: stopped.\n"


def test_a_reader_that_has_gone():
    code = (
        "import sys; from jaxmd_sign._cli import main, Status\n"
        "Status.run = lambda self: print('x' * 100_000) or 0\n"
        "sys.exit(main(['status', 'store']))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("study", ["beyond", "sparse"])
def test_studies_print_their_tables(study, folder, monkeypatch, capsys):
    from jaxmd_sign import _reproduce

    def written(out, **studies):
        assert [name for name, wanted in studies.items() if wanted] == [study]
        (folder / "study.md").write_text("| M |\n", "utf-8")
        return [folder / "study.md"]

    monkeypatch.setattr(_reproduce, "reproduce", written)
    assert main(["reproduce", "--out", "figures", f"--{study}"]) == 0
    assert "| M |" in capsys.readouterr().out.splitlines()
