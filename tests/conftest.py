"""Examples that hypothesis draws are the same in every run.

HYPOTHESIS_PROFILE=explore draws new ones. Tests that run side by side compute
with one thread each; they would take several times as long with more. XLA
compiles more than it computes here: LLVM's optimizations, which make code
faster and not different, would cost a third of the time of all tests.
"""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    for threads in (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
    ):
        os.environ.setdefault(threads, "1")

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_backend_optimization_level=0",
)

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
