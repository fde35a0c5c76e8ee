"""`monofs` as the next release would be, which knows one entry level more. Run as ``python -m monofs.testing.newer serve …``."""

from __future__ import annotations

import runpy

from monofs.metadata import tables

if __name__ == "__main__":
    tables.LEVEL += 1
    runpy.run_module("monofs", run_name="__main__", alter_sys=True)
