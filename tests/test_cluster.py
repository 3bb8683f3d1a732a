"""Sweeps on a dask.distributed cluster of worker processes, one of which is killed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import jaxmd_sign as jms
from jaxmd_sign._cli import main
from jaxmd_sign._sweep import _cluster
from jaxmd_sign._sweep._manifest import read_marks
from jaxmd_sign._sweep._status import status

distributed = pytest.importorskip("distributed")

PROBLEM = jms.Problem([[1.3, 0.7]], [1.0])
EPSILON, ALPHA = np.geomspace(1e-4, 1, 40), np.geomspace(0.01, 0.1, 16)
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"


@pytest.fixture(scope="module")
def client():
    """Two worker processes, which keep what they compile where the tests do."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with _cluster.cluster(None, 2) as client:
            yield client


@pytest.fixture(scope="module")
def expected():
    return jms.sweep(PROBLEM, EPSILON, ALPHA, chunk_size=16)


@pytest.mark.slow
def test_without_a_store_results_come_back(client, expected):
    found = jms.sweep(PROBLEM, EPSILON, ALPHA, chunk_size=16, client=client)
    xr.testing.assert_identical(found, expected)
    assert len(client.nthreads()) == 2


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_chunks(client, expected, tmp_path):
    store, killed = tmp_path / "s.zarr", []

    def kill_one():
        while len(read_marks(store)) < 5:
            time.sleep(0.001)
        killed.extend(pids.values())
        os.kill(killed[0], signal.SIGKILL)

    pids = client.run(os.getpid)
    assert len(set(pids.values())) == 2
    thread = threading.Thread(target=kill_one)
    thread.start()
    found = jms.sweep(PROBLEM, EPSILON, ALPHA, chunk_size=16, client=client, store=store)
    thread.join()
    assert status(store)["done"] == 640
    xr.testing.assert_identical(found.load(), expected)
    assert client.submit(os.getpid, pure=False).result() != killed[0]


@pytest.mark.slow
def test_a_store_out_of_sight_is_written_by_the_client(client, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(_cluster, "new_token", lambda store: "of another machine")
    store = tmp_path / "s.zarr"
    jms.sweep(PROBLEM, EPSILON[:9], ALPHA, chunk_size=16, client=client, store=store)
    assert len(read_marks(store)) == 9
    found = jms.sweep(PROBLEM, EPSILON[:9], ALPHA, store=store)
    xr.testing.assert_identical(found.load(), expected.isel(epsilon=slice(9)))


def test_a_cluster_without_workers_is_given_up(monkeypatch):
    monkeypatch.setattr(_cluster, "_PATIENCE", 0.3)
    own = distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    with (
        own,
        distributed.Client(own) as client,
        pytest.raises(_cluster.ClusterError, match=r"no worker for 0 s\. Call again"),
    ):
        jms.sweep(PROBLEM, EPSILON, ALPHA, client=client)


WORDS = ("sweep", "--data", "blocks:1:0", "--epsilon", "0.1", "--alpha", "0.1", "--out", "s.zarr")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "workers must be a positive whole number, but is 0"),
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), "give one of them, not both"),
        (("--scheduler", "nowhere"), "scheduler nowhere cannot be reached"),
    ],
)
def test_bad_words_are_one_line_and_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_dask_is_asked_for_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*WORDS, "--workers", "2"]) == 2
    assert "pip install 'jaxmd-sign[dask]'" in capsys.readouterr().err
