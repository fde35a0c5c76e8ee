"""What the tests of local stores share: bytes as acts take them, all that lies below a root, processes that end by force."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def views(data: bytes) -> list[memoryview]:
    return [memoryview(data)]


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def in_child(root: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own, with ``store`` and ``views`` there."""
    before = (
        "from monofs.ufs.local import LocalStore\nfrom monofs.ufs.base import *\nfrom monofs.model.errors import *\n"
        "from monofs.testing.syscalls import fail_syscall\nimport errno, os\n"
        f"store = LocalStore({root.as_uri()!r})\nviews = lambda data: [memoryview(data)]\n"
    )
    return subprocess.run(
        [sys.executable, "-c", before + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
