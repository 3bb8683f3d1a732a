"""Seeded random problems, and files good and bad."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmd_sign import load_problem, random_block_problem, random_sparse_problem

DATA = Path(__file__).parent / "data"
KEY = jax.random.key(0)


def csv(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_random_blocks_have_the_stated_ranges_and_both_signs(block_size):
    problem = random_block_problem(KEY, 400, block_size)
    x, y = np.asarray(problem.data.x), np.asarray(problem.y)
    assert x.shape == (400, block_size) and problem.is_block_diagonal
    for values, low in ((x, 0.3), (y, 0.5)):
        assert low <= np.min(np.abs(values)) < low + 0.05 and 1.9 < np.max(np.abs(values)) <= 2
        assert abs(np.mean(np.sign(values))) < 0.2


def test_random_blocks_follow_key_and_dtype():
    problem = random_block_problem(KEY, 3)
    assert np.array_equal(problem.y, random_block_problem(KEY, 3).y)
    assert not np.array_equal(problem.y, random_block_problem(jax.random.key(1), 3).y)
    assert problem.dtype == np.float64
    assert random_block_problem(KEY, 3, dtype=jnp.float32).dtype == np.float32


@pytest.mark.parametrize("dtype", [int, bool, np.float16])
def test_another_dtype_is_refused(dtype):
    words = f"dtype must be float32 or float64, but is {np.dtype(dtype)}"
    with pytest.raises(ValueError, match=words):
        random_block_problem(KEY, 3, dtype=dtype)
    with pytest.raises(ValueError, match=words):
        random_sparse_problem(KEY, 3, 6, 2, dtype=dtype)


def test_many_blocks_need_no_dense_matrix():
    assert random_block_problem(KEY, 100_000).num_features == 200_000


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_problem_is_fitted_by_a_sparse_sign_vector(dtype):
    problem = random_sparse_problem(KEY, 30, 40, 4, dtype=dtype)
    assert problem.X.shape == (30, 40) and problem.dtype == dtype
    assert abs(np.linalg.norm(problem.X, axis=0).mean() - 1) < 0.1
    # Least squares on the columns that correlate with y most: among them are the four of the truth.
    columns = np.argsort(-np.abs(problem.X.T @ problem.y))[:15]
    truth = np.linalg.lstsq(problem.X[:, columns], problem.y, rcond=None)[0]
    assert np.count_nonzero(np.abs(truth) > 1e-4) == 4
    assert np.allclose(np.abs(truth[np.abs(truth) > 1e-4]), 1, atol=1e-4)


def test_noise_is_added_to_the_labels():
    quiet = random_sparse_problem(KEY, 30, 40, 4)
    noisy = random_sparse_problem(KEY, 30, 40, 4, noise=0.5)
    assert np.array_equal(quiet.X, noisy.X)
    assert 0.3 < np.std(noisy.y - quiet.y) < 0.7


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_blocks": 0}, "num_blocks must be a positive whole number, but is 0"),
        ({"num_blocks": 2, "block_size": -1}, "block_size must be a positive whole number"),
        ({"num_blocks": 2, "dtype": jnp.complex64}, "dtype must be float32 or float64"),
    ],
)
def test_bad_block_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        random_block_problem(KEY, **sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5, 2), "num_examples must be a positive whole number"),
        ((3, 0, 2), "num_features must be a positive whole number"),
        ((3, 5, 0), "num_nonzero must be a positive whole number"),
        ((3, 5, 6), "num_nonzero must be at most num_features = 5, but is 6"),
        ((3, 5, 2, -1.0), "noise must be at least 0 and finite, but is -1"),
        ((3, 5, 2, np.nan), "noise must be at least 0 and finite, but is nan"),
        ((9, 5, 2, 0.1), "no interpolator"),
    ],
)
def test_bad_sparse_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        random_sparse_problem(KEY, *sizes)


def test_real_data():
    problem = load_problem(DATA / "diabetes30_quadratic.csv")
    table = np.loadtxt(DATA / "diabetes30_quadratic.csv", delimiter=",", skiprows=1)
    assert np.array_equal(problem.X, table[:, :-1]) and np.array_equal(problem.y, table[:, -1])
    assert not problem.is_block_diagonal


@pytest.mark.parametrize(("label", "column"), [(None, 2), ("c", 2), ("b", 1), ("a", 0)])
def test_label_by_name_else_last(tmp_path, label, column):
    problem = load_problem(csv(tmp_path, "a, b ,c\n1,2,3\n4,5.5,-6\n\n"), label)
    table = np.array([[1, 2, 3], [4, 5.5, -6]])
    assert np.array_equal(problem.y, table[:, column])
    assert np.array_equal(problem.X, np.delete(table, column, axis=1))


def test_spreadsheet_files_with_byte_order_mark_and_carriage_returns(tmp_path):
    path = tmp_path / "DATA.CSV"
    path.write_bytes("\ufeffa,y\r\n2,1\r\n".encode())
    assert load_problem(path, "y").X == 2


def test_archive(tmp_path):
    np.savez(tmp_path / "data.npz", X=np.array([[1, 2]], np.int8), y=np.array([3], np.float32))
    problem = load_problem(tmp_path / "data.npz")
    assert np.array_equal(problem.X, [[1, 2]]) and problem.dtype == np.float64


@pytest.mark.parametrize(("spec", "shape"), [("blocks:3:7", (3, 2)), ("blocks:4x5:7", (4, 5))])
def test_random_blocks_by_name(spec, shape):
    problem = load_problem(spec)
    same = random_block_problem(jax.random.key(7), *shape)
    assert np.array_equal(problem.data.x, same.data.x) and np.array_equal(problem.y, same.y)


BAD_TABLES = {
    "empty": ("", "is empty. Write column names"),
    "blank": ("\n\n", "is empty. Write column names"),
    "header only": ("a,b,y\n", "has a header only"),
    "no header": ("1,2,3\n4,5,6\n", "line 1 holds numbers only"),
    "one column": ("y\n1\n2\n", "has one column only"),
    "text": ("a,b,y\n1,2,3\n4,five,6\n", "line 3, column 'b' holds 'five'"),
    "missing cell": ("a,b,y\n1,,3\n", "line 2, column 'b' holds ''"),
    "nan": ("a,b,y\n\n1,2,nan\n", "line 3, column 'y' holds 'nan'"),
    "inf": ("a,b,y\n-inf,2,3\n", "line 2, column 'a' holds '-inf'"),
    "overflow": ("a,b,y\n1,1e999,3\n", "line 2, column 'b' holds '1e999'"),
    "short line": ("a,b,y\n1,2,3\n1,2\n", "line 3 has 2 cells, but line 1 names 3 columns"),
    "long line": ("a,b,y\n1,2,3,4\n", "line 2 has 4 cells, but line 1 names 3 columns"),
    "zero row": ("a,b,y\n1,2,3\n0,0,1\n", "zero row 1 whose label"),
    "no interpolator": ("a,b,y\n1,1,1\n1,1,2\n", "no interpolator"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(tmp_path, case):
    text, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message) as error:
        load_problem(csv(tmp_path, text))
    assert "data.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("z", "label 'z' names no column of line 1. Choose one of: a, a, y"),
        ("a", "names 2 columns"),
    ],
)
def test_bad_label(tmp_path, label, message):
    with pytest.raises(ValueError, match=message):
        load_problem(csv(tmp_path, "a,a,y\n1,2,3\n"), label)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"\0\1\2,\3\n4,5\n"])
@pytest.mark.parametrize(
    ("name", "message"),
    [("data.csv", "is not text"), ("data.npz", "is not an archive of NumPy arrays")],
)
def test_binary_files(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_problem(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.eye(2)}, "holds no array 'y'"),
        ({"y": np.ones(2)}, "holds no array 'X'"),
        ({"X": np.eye(2), "y": np.ones(3)}, "one row per example, but have 2 and 3"),
        ({"X": np.eye(2), "y": np.ones((2, 1))}, r"y must have 1 axes, but has shape \(2, 1\)"),
        ({"X": np.ones(2), "y": np.ones(2)}, r"X must have 2 axes, but has shape \(2,\)"),
        ({"X": np.eye(2), "y": np.array([1, np.nan])}, r"y must be finite, but entry \(1,\)"),
        ({"X": np.array([["a", "b"]]), "y": np.ones(1)}, "X holds <U1, not real numbers"),
        ({"X": 1j * np.eye(2), "y": np.ones(2)}, "X holds complex128, not real numbers"),
        ({"X": np.array([[None]]), "y": np.ones(1)}, "is not an archive of NumPy arrays"),
    ],
)
def test_bad_archives(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_problem(tmp_path / "data.npz")


def test_empty_and_unzipped_archives(tmp_path):
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.eye(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("empty.npz", "array.npz"):
        with pytest.raises(ValueError, match="is not an archive"):
            load_problem(tmp_path / name)


@pytest.mark.parametrize("name", ["data.csv", "data.npz"])
def test_missing_files_and_folders(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: does not exist"):
        load_problem(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: is a folder"):
        load_problem(tmp_path / name)


def test_other_kinds_of_data(tmp_path):
    with pytest.raises(ValueError, match=r"must be a \.csv or \.npz file"):
        load_problem(tmp_path / "data.xlsx")
    with pytest.raises(ValueError, match=r"label names a column of a \.csv file"):
        load_problem("blocks:3:0", label="y")


@pytest.mark.parametrize(
    "spec", ["blocks:", "blocks:3", "blocks:a:0", "blocks:3x:0", "blocks:3:-1", "blocks:3:0.5"]
)
def test_unreadable_blocks(spec):
    with pytest.raises(ValueError, match=r"must be blocks:K:SEED or blocks:KxD:SEED"):
        load_problem(spec)


@pytest.mark.parametrize("spec", ["blocks:0:0", "blocks:3x0:0"])
def test_no_blocks(spec):
    with pytest.raises(ValueError, match=r"^blocks:.* must be a positive whole number"):
        load_problem(spec)
