"""Set-up of every test process: float64, enforced shapes, one fixed draw of examples."""

import sys
from pathlib import Path

import jax
import jaxtyping
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

loaded = [name for name in sys.modules if name.partition(".")[0] == "jaxmd_sign"]
if loaded:
    raise RuntimeError(f"{loaded} imported before the shape checks of tests/conftest.py")

jax.config.update("jax_enable_x64", True)

# Workers and later runs share what they compile; `make clean` empties it.
cache = Path(__file__).parents[1] / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Every annotated function and module of the package checks its shapes and dtypes in the tests.
# The hook stays for the whole run, because the package loads its modules when first used.
install_import_hook("jaxmd_sign", "beartype.beartype")

# The same examples on every run and in every worker; compiling is slow, so no deadline.
settings.register_profile(
    "jaxmd_sign",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jaxmd_sign")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Linux lets a process have 65,530 memory mappings; each compiled program takes many.

    A worker that had met a thousand programs was aborted in the middle of compiling another.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def without_type_checks():
    """What a user meets, who has no beartype."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
