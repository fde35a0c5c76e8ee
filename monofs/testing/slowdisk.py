"""A directory in which every file operation works and takes as long as is said: a disk that limps, or storage far away.

A FUSE file system over a directory beside it, served by a process of its own straight from ``/dev/fuse``. Each request waits in a thread of its own and is
then done; names and attributes are kept by the kernel for a second, and bytes until the file is opened again, as other such file systems have it. Who asked for what is
written down: the kernel tells the *thread* that makes a request, so that a test can tell whether a thread that must never wait for a disk did, without measuring any time. Needs root
on Linux; :func:`why_not` says what is missing. Protocol: linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from monofs.testing.orphans import die_with_parent

THREADS = 64
"""Requests that wait and are done at a time."""
KEPT_S = 1
"""How long the kernel believes what it was told of a name."""
WRITE_BYTES = 1 << 20
_BUFFER_BYTES = WRITE_BYTES + 4096
_ROOT = 1
_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_INIT = struct.Struct("<IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_SET = struct.Struct("<IIQQQQQQIIIIIIII")
_IO = struct.Struct("<QQIIQII")
_ASYNC_READ, _BIG_WRITES, _AUTO_INVAL_DATA, _PARALLEL_DIROPS, _MAX_PAGES = 1, 1 << 5, 1 << 12, 1 << 18, 1 << 22
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2


class SlowDisk:
    """Mounted at ``directory``, which comes into being, after :meth:`open`; its files lie in ``directory`` + ``.files``, where they can be had at once."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.files = f"{directory.rstrip('/')}.files"
        self._account = f"{directory.rstrip('/')}.requests"
        self._server: subprocess.Popen[bytes] | None = None

    def open(self) -> SlowDisk:
        """Mount it, quick for now. Raises ``OSError`` when the kernel refuses."""
        for path in (self.directory, self.files):
            os.makedirs(path)
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
            _check(_libc.mount(b"slow", self.directory.encode(), b"fuse", _MS_NOSUID | _MS_NODEV, options.encode()))
            self._server = subprocess.Popen(
                [sys.executable, "-m", "monofs.testing.slowdisk", str(fuse), self.files, self._account],
                stdin=subprocess.PIPE, pass_fds=[fuse], preexec_fn=die_with_parent(),
            )  # fmt: skip
        finally:
            os.close(fuse)
        os.stat(self.directory)  # it answers
        return self

    def slow(self, seconds: float) -> None:
        """From now on every operation takes so long; 0: no longer than it must."""
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(f"{seconds}\n".encode())
        self._server.stdin.flush()
        before = time.monotonic()
        while time.monotonic() - before < 20 and not self._told(f"slow {seconds}"):
            time.sleep(0.01)

    def threads(self) -> list[tuple[str, int]]:
        """What was asked since the last call of :meth:`slow`, and by which thread (its id in the system)."""
        with open(self._account) as account:
            lines = [line.split() for line in account]
        last = max((at for at, line in enumerate(lines) if line[0] == "slow"), default=-1)
        return [(name, int(thread)) for name, thread in lines[last + 1 :]]

    def _told(self, line: str) -> bool:
        with open(self._account) as account:
            told = [each.strip() for each in account if each.startswith("slow ")]
        return bool(told) and told[-1] == line

    def close(self) -> None:
        """Unmount it; the files stay."""
        _libc.umount2(self.directory.encode(), _MNT_DETACH)
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


def why_not() -> str:
    """Why there can be no such directory here; empty when there can."""
    if not sys.platform.startswith("linux"):
        return "only Linux has FUSE as this speaks it"
    if os.geteuid() != 0:
        return "mounting needs root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return ""


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class _Server:
    """The process behind a mount. Every node is an ``O_PATH`` descriptor, so that a file without a name is a file still."""

    def __init__(self, fuse: int, files: str, account: str) -> None:
        self._fuse = fuse
        self.delay_s = 0.0
        self._nodes = {_ROOT: os.open(files, os.O_PATH)}
        self._numbers: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self.account = open(account, "w", buffering=1)  # noqa: SIM115 - it lives as long as the process
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup, 3: self._get, 4: self._set, 9: self._mkdir, 10: self._unlink, 11: self._rmdir, 12: self._rename, 13: self._link,
            14: self._open, 15: self._read, 16: self._write, 17: self._statfs, 18: self._release, 20: self._fsync, 25: self._flush,
            27: self._open, 28: self._readdir, 29: self._release, 30: self._fsync, 35: self._create,
        }  # fmt: skip

    def serve(self) -> None:
        """Until the mount is gone."""
        with ThreadPoolExecutor(THREADS) as threads:
            while True:
                try:
                    request = os.read(self._fuse, _BUFFER_BYTES)
                except OSError as error:
                    if error.errno in (errno.EINTR, errno.ENOENT):  # taken back before it was read
                        continue
                    return
                _, code, unique, node, _, _, thread, _, _ = _HEADER.unpack_from(request)
                if code == 26:
                    self._tell(unique, 0, self._begin(request[_HEADER.size :]))
                elif code not in (_FORGET, _INTERRUPT, _BATCH_FORGET):  # nodes are kept: there are few
                    threads.submit(self._do, code, unique, node, thread, request[_HEADER.size :])

    def _do(self, code: int, unique: int, node: int, thread: int, body: bytes) -> None:
        call = self._calls.get(code)
        if call is None:
            self._tell(unique, errno.ENOSYS, b"")
            return
        self.account.write(f"{call.__name__.strip('_')} {thread}\n")
        time.sleep(self.delay_s)
        try:
            self._tell(unique, 0, call(node, body))
        except OSError as error:
            self._tell(unique, error.errno or errno.EIO, b"")

    def _tell(self, unique: int, error: int, body: bytes) -> None:
        try:
            os.writev(self._fuse, [_ANSWER.pack(_ANSWER.size + len(body), -error, unique), body])
        except OSError as gone:
            if gone.errno not in (errno.ENOENT, errno.ENODEV):  # who asked does not wait any more
                raise

    def _begin(self, body: bytes) -> bytes:
        _, minor, ahead, flags = struct.unpack_from("<IIII", body)
        flags &= _ASYNC_READ | _BIG_WRITES | _AUTO_INVAL_DATA | _PARALLEL_DIROPS | _MAX_PAGES
        return _INIT.pack(7, min(minor, 31), ahead, flags, 16, 12, WRITE_BYTES, 1, WRITE_BYTES // 4096, 0, 0)

    # ---- names ----

    def _entry(self, fd: int) -> bytes:
        """Of what an ``O_PATH`` descriptor names; it becomes a node, or is closed."""
        stat = os.fstat(fd)
        with self._lock:
            key = (stat.st_dev, stat.st_ino)
            number = self._numbers.setdefault(key, len(self._numbers) + _ROOT + 1)
            if self._nodes.setdefault(number, fd) != fd:
                os.close(fd)
        return struct.pack("<QQQQII", number, 0, KEPT_S, KEPT_S, 0, 0) + _attributes(stat)

    def _found(self, parent: int, name: bytes) -> bytes:
        return self._entry(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._nodes[parent]))

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._found(node, body.rstrip(b"\0"))

    def _get(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", KEPT_S, 0, 0) + _attributes(os.fstat(self._nodes[node]))

    def _set(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, *_, mode, _, uid, gid, _ = _SET.unpack_from(body)
        path = f"/proc/self/fd/{self._nodes[node]}"
        if valid & 1:
            os.chmod(path, mode & 0o7777)
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        return self._get(node, body)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        mode, _ = struct.unpack_from("<II", body)
        name = body[8:].rstrip(b"\0")
        os.mkdir(name, mode, dir_fd=self._nodes[node])
        return self._found(node, name)

    def _unlink(self, node: int, body: bytes) -> bytes:
        os.unlink(body.rstrip(b"\0"), dir_fd=self._nodes[node])
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        os.rmdir(body.rstrip(b"\0"), dir_fd=self._nodes[node])
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        old, new, _ = body[8:].split(b"\0", 2)
        os.rename(old, new, src_dir_fd=self._nodes[node], dst_dir_fd=self._nodes[target])
        return b""

    def _link(self, node: int, body: bytes) -> bytes:
        (source,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        os.link(f"/proc/self/fd/{self._nodes[source]}", name, dst_dir_fd=self._nodes[node], follow_symlinks=True)
        return self._found(node, name)

    def _statfs(self, node: int, _body: bytes) -> bytes:
        found = os.fstatvfs(self._nodes[node])
        return struct.pack(
            "<QQQQQIIII24x", found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree, found.f_bsize, found.f_namemax,
            found.f_frsize, 0,
        )  # fmt: skip

    # ---- files ----

    def _open(self, node: int, body: bytes) -> bytes:
        flags, _ = struct.unpack_from("<II", body)
        fd = os.open(f"/proc/self/fd/{self._nodes[node]}", flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        return struct.pack("<QII", fd, 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, _, _ = struct.unpack_from("<IIII", body)
        name = body[16:].rstrip(b"\0")
        fd = os.open(name, flags | os.O_CREAT, mode & 0o7777, dir_fd=self._nodes[node])
        return self._found(node, name) + struct.pack("<QII", fd, 0, 0)

    def _read(self, _node: int, body: bytes) -> bytes:
        fd, offset, size, *_ = _IO.unpack_from(body)
        return os.pread(fd, size, offset)

    def _write(self, _node: int, body: bytes) -> bytes:
        fd, offset, size, *_ = _IO.unpack_from(body)
        return struct.pack("<II", os.pwrite(fd, memoryview(body)[_IO.size : _IO.size + size], offset), 0)

    def _flush(self, _node: int, _body: bytes) -> bytes:
        return b""

    def _release(self, _node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _fsync(self, _node: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def _readdir(self, _node: int, body: bytes) -> bytes:
        fd, offset, size, *_ = _IO.unpack_from(body)
        answer = bytearray()
        for at, name in enumerate([b".", b"..", *map(os.fsencode, sorted(os.listdir(fd)))][offset:], offset + 1):
            entry = struct.pack("<QQII", at, at, len(name), 0) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return bytes(answer)


def _attributes(stat: os.stat_result) -> bytes:
    times = [stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns]
    return _ATTRIBUTES.pack(
        stat.st_ino, stat.st_size, stat.st_blocks, *(each // 10**9 for each in times), *(each % 10**9 for each in times), stat.st_mode,
        stat.st_nlink, stat.st_uid, stat.st_gid, 0, 4096, 0,
    )  # fmt: skip


def main(fuse: str, files: str, account: str) -> None:
    """Serve the file system; each line of standard input says how long an operation takes from now on."""
    server = _Server(int(fuse), files, account)
    threading.Thread(target=server.serve, daemon=True).start()
    for line in sys.stdin:
        server.delay_s = float(line)
        server.account.write(f"slow {line.strip()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
