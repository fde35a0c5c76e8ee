"""`monofs` on a machine whose clock is off by ``TESTING_MONOFS_SKEW_S`` seconds. Run as ``python -m monofs.testing.skewed serve …``."""

from __future__ import annotations

import os
import runpy
import time

SKEW = "TESTING_MONOFS_SKEW_S"

if __name__ == "__main__":
    skew_s = float(os.environ[SKEW])
    wall_s, wall_ns = time.time, time.time_ns
    time.time = lambda: wall_s() + skew_s
    time.time_ns = lambda: wall_ns() + round(skew_s * 1e9)
    runpy.run_module("monofs", run_name="__main__", alter_sys=True)
