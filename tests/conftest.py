"""Every test runs on eight simulated CPU devices, with strict dtype promotion and warnings as errors."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SSL_JAX_PROGRESS", "inf")  # lines of progress depend on the load of the machine
# LLVM's, here and in the processes that tests start: compilation was most of the tests' time. Float32 sums are then
# added one by one, which costs them digits.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import numpy as np
import pytest

if jax.__version_info__ < (0, 11):  # a flag that a later XLA does not know would end the process
    # The older way to make a fused loop, in less than half of the time; nothing is promised of XLA's speed here.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

gc.disable()  # until all tests are collected
gc.set_threshold(20_000, 20, 100)

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.devices()  # made now: a command that a test gives first would have its own number of them


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """Compiled programs of a file end with it: each takes dozens of memory mappings, of which a process has 65,530."""
    yield
    if contract := sys.modules.get("contract"):
        contract.program.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real datasets, which a user's machine does not have: SSL_JAX_DATA."""
    path = Path(os.environ.get("SSL_JAX_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"SSL_JAX_DATA={path} is not there")
    return path


@pytest.fixture(autouse=True)
def _a_test_has_its_numbers_in_any_order(request):
    for module in (request.module, sys.modules.get("pictures")):
        if hasattr(module, "RNG"):
            module.RNG = np.random.default_rng(0)


def pytest_collection_finish():
    """What was imported stays: looking through it for what can be let go was a sixth of the tests' time."""
    gc.enable()
    gc.freeze()


@pytest.fixture
def load(tmp_path):
    """``readers.load`` with its cache in the test's folder."""
    from ssl_jax.data import readers

    return lambda spec, **kw: readers.load(spec, cache_dir=str(tmp_path / "cache"), **kw)
