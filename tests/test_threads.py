"""What other threads compute is what this one would: with `enable_x64` by a `with` alone, too."""

import jax
import numpy as np
import pytest
import xarray as xr

import jaxmd_sign as jms
from jaxmd_sign._certificate._block_case import _as_blocks
from jaxmd_sign._certificate._measured import _in_chunks
from jaxmd_sign._certificate._path import Effort
from jaxmd_sign._report import limit_report
from jaxmd_sign._sweep import _devices, _fixed

BLOCKS = [[0.9, 0, -0.3], [0, -1.2, 0]], [1.1, -0.7]
GENERAL = [[0.9, 0.2, -0.3], [0.4, -1.2, 0.1]], [1.1, -0.7]
EPSILON = np.geomspace(1e-3, 1, 6)


@pytest.fixture
def x64_by_a_with(monkeypatch):
    """Several threads, whatever the cores, and float64 as a setting of this thread only."""
    monkeypatch.setattr(_devices, "num_cores", lambda: 2)
    jax.config.update("jax_enable_x64", False)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_enable_x64", True)


def a_sweep(data, **changes):
    return jms.sweep(jms.Problem(*data), EPSILON, 0.05, rtol=1e-8, **changes)


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (BLOCKS, {"chunk_size": 1}),
        (GENERAL, {}),
        (GENERAL, {"depth": 3}),
        (BLOCKS, {"chunk_size": 1, "smoothing": "clip"}),
    ],
    ids=["blocks", "general", "adaptive", "adaptive blocks"],
)
def test_sweeps(x64_by_a_with, data, changes):
    found = a_sweep(data, **changes), a_sweep(data, **changes)  # the second time all in threads
    jax.config.update("jax_enable_x64", True)
    for one in found:
        xr.testing.assert_identical(one, a_sweep(data, **changes))


def test_a_case_of_many_blocks(x64_by_a_with, monkeypatch):
    monkeypatch.setattr(_fixed, "ROWS", 1)
    found = a_sweep(BLOCKS)
    jax.config.update("jax_enable_x64", True)
    xr.testing.assert_identical(found, a_sweep(BLOCKS))


def test_the_report_of_a_limit(x64_by_a_with):
    given = jms.Problem(*GENERAL), 0.1, 0.05, "start", None
    found = limit_report(*given)
    jax.config.update("jax_enable_x64", True)
    expected = limit_report(*given)
    for name in ("warmup_end", "sign_end", "t_end"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_certificate(x64_by_a_with):
    given = jms.Problem(*BLOCKS), 0.1, 0.05
    found = jms.certify(*given)
    jax.config.update("jax_enable_x64", True)
    assert found.claims == jms.certify(*given).claims


def test_random_instances_in_chunks(x64_by_a_with):
    given = _as_blocks(jms.Problem(*BLOCKS), 0.1, 0.05), Effort(rtol=1e-8), (1,)
    found = _in_chunks(*given)
    jax.config.update("jax_enable_x64", True)
    jax.tree.map(np.testing.assert_array_equal, found, _in_chunks(*given))
