"""A small file system of its own for one directory, which can be filled up and freed: what a full disk does, with nothing simulated.

An ext4 image on a loop device, mounted where only this process and those it starts from now on see it, so that nothing stays mounted however they end; the
image stays. Needs root on Linux; :func:`why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE_BYTES = 1 << 30
"""Sparse. A master refuses to copy its state where less than 256 MiB would be left."""
_CLONE_NEWNS = 0x20000
_FILLER = "filler"


class SmallDisk:
    """Mounted at ``directory``, which comes into being, after :meth:`open`."""

    def __init__(self, directory: str, size_bytes: int = SIZE_BYTES) -> None:
        self.directory, self._size_bytes = directory, size_bytes
        self._filler = os.path.join(directory, _FILLER)

    def open(self) -> SmallDisk:
        """Make and mount it, for the thread that calls and the processes it starts. Raises ``OSError`` when the kernel refuses."""
        os.makedirs(self.directory)
        image = f"{self.directory.rstrip('/')}.img"
        with open(image, "wb") as file:
            file.truncate(self._size_bytes)
        _run("mkfs.ext4", "-q", "-m", "0", image)
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        _run("mount", "--make-rprivate", "/")
        _run("mount", "-o", "loop", image, self.directory)
        return self

    def fill(self) -> None:
        """Leave no room at all."""
        with open(self._filler, "ab") as file:
            step = 64 << 20
            while step >= 512:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2

    def free(self) -> None:
        """Give the room back."""
        Path(self._filler).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it; the image stays."""
        _run("umount", "--lazy", self.directory)


def empty(directory: str) -> None:
    """Remove what is in a directory, which may be where something is mounted."""
    for entry in list(os.scandir(directory)) if os.path.isdir(directory) else []:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def why_not() -> str:
    """Why there can be no such disk here; empty when there can."""
    if not sys.platform.startswith("linux"):
        return "only Linux has loop devices"
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: e2fsprogs, mount)"
    with tempfile.TemporaryDirectory(prefix="monofs-small-") as directory:
        probe = SmallDisk(os.path.join(directory, "probe"), 8 << 20)
        try:
            probe.open().close()
        except OSError as error:
            return str(error)
    return ""
