"""A real S3 server for tests and demos: one Ceph monitor, one OSD in memory and radosgw, in a directory of the caller's choice.

Needs root and the Debian packages ``ceph-mon ceph-osd radosgw ceph-common``; :func:`missing` names what is absent. Everything
listens on loopback. It starts in about 15 s.

Invariant: every process started here is the leader of its own process group, dies with the thread that started it when that is
the main thread (so a killed test run leaves nothing), and is stopped by group, never by name.

Not here: faults (see ``storeproxy``), more than one OSD, data that survives a stop: the OSD keeps objects in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from monofs.testing.orphans import die_with_parent
from monofs.testing.ports import free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
START_TIMEOUT_S = 60.0
GATEWAY_TIMEOUT_S = 25.0
GATEWAY_ATTEMPTS = 3
STOP_TIMEOUT_S = 10.0

_LOG_LINE = re.compile(rb'beast: \S+: \S+ - (\S+) \[[^\]]*\] "([A-Z]+) (\S+) HTTP/[\d.]+" (\d+) (\d+)')

_CONFIG = """\
[global]
fsid = {fsid}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
mon_host = [v1:127.0.0.1:{mon_port}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr2 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
run_dir = {directory}/run
log_file = {directory}/log/$name.log
admin_socket = {directory}/run/$name.asok
pid_file =
[mon.a]
mon_data = {directory}/mon
[osd.0]
osd_data = {directory}/osd
osd_objectstore = memstore
osd_class_update_on_start = false
osd_crush_update_on_start = false
memstore_device_bytes = {memory_bytes}
osd_max_object_name_len = 1024
osd_class_load_list = *
osd_class_default_list = *
[client.rgw.a]
rgw_data = {directory}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_enable_usage_log = false
rgw_override_bucket_index_max_shards = 1
rgw_crypt_require_ssl = false
rgw_thread_pool_size = 32
debug_rgw = 1/1
"""


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the gateway's access log; ``path`` is as sent: percent-encoded, with its query."""

    user: str
    method: str
    path: str
    status: int
    size: int


def missing() -> str | None:
    """Why radosgw cannot run here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install --no-install-recommends {PACKAGES}"
    return None if os.geteuid() == 0 else "starting Ceph's daemons needs root"


class Ceph:
    """One running S3 server. Use as a context manager, or call ``start`` and ``stop``.

    ``endpoint`` is its URL; ``access_key``/``secret_key`` belong to user ``main``, ``other_access_key``/``other_secret_key`` to a
    second user who may not read what ``main`` keeps.
    """

    access_key = "AKIAMAIN"
    secret_key = "secretmain"
    other_access_key = "AKIAALT"
    other_secret_key = "secretalt"

    def __init__(self, directory: str, *, port: int = 0, memory_bytes: int = 4 << 30) -> None:
        self.directory = os.path.abspath(directory)
        self.port = port or free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._memory_bytes = memory_bytes
        self._config = os.path.join(self.directory, "ceph.conf")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._marks = 0

    def __enter__(self) -> Ceph:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start on an empty directory and wait until both users can be served.

        Raises ``RuntimeError`` naming what failed and the log directory; nothing is left running then.
        """
        reason = missing()
        if reason:
            raise RuntimeError(reason)
        for name in ("run", "log", "mon", "osd", "rgw"):
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)
        try:
            self._start_monitor()
            self._start_osd()
            self.start_gateway()
            self._add_user("main", self.access_key, self.secret_key)
            self._add_user("alt", self.other_access_key, self.other_secret_key)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all daemons; safe to call twice."""
        for name in ("rgw", "osd", "mon"):
            self._stop(name)

    def stop_gateway(self) -> None:
        """Stop radosgw only: the store becomes unreachable, its objects stay."""
        self._stop("rgw")

    def start_gateway(self) -> None:
        """Start radosgw on the same port and wait until it answers; one that stays silent is started again."""
        for attempt in range(1, GATEWAY_ATTEMPTS + 1):
            self._run("rgw", "radosgw", "-c", self._config, "-n", "client.rgw.a", "-f")
            try:
                self._wait(self._answers, "radosgw to answer", "rgw", GATEWAY_TIMEOUT_S)
                return
            except RuntimeError:
                self._stop("rgw")
                if attempt == GATEWAY_ATTEMPTS:
                    raise

    def restart_gateway(self) -> None:
        """Stop and start radosgw."""
        self.stop_gateway()
        self.start_gateway()

    def accesses(self) -> list[Access]:
        """All requests the gateway has answered so far, oldest first.

        A marked request is sent and waited for in the log, so everything answered before the call is in the result.
        """
        self._marks += 1
        mark = f"/?monofs-mark={self._marks}"
        self._answers(mark)
        found: list[Access] = []

        def logged() -> bool:
            found[:] = self._read_log()
            return any(access.path == mark for access in found)

        self._wait(logged, "the access log", "rgw")
        return [access for access in found if not access.path.startswith("/?monofs-mark=")]

    def gets(self, bucket: str) -> int:
        """How many object GETs of ``bucket`` were answered so far; listings are not counted."""
        prefix = f"/{bucket}/"
        return sum(
            access.method == "GET" and access.path.startswith(prefix) and not access.path.startswith(prefix + "?")
            for access in self.accesses()
        )

    # ---- the daemons ----------------------------------------------------------------------------------------------------

    def _start_monitor(self) -> None:
        fsid, mon_port = str(uuid.uuid4()), free_port()
        with open(self._config, "w", encoding="utf-8") as file:
            file.write(
                _CONFIG.format(
                    fsid=fsid,
                    mon_port=mon_port,
                    directory=self.directory,
                    port=self.port,
                    memory_bytes=self._memory_bytes,
                )
            )
        monmap = os.path.join(self.directory, "monmap")
        address = f"[v1:127.0.0.1:{mon_port}]"
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, "--clobber", monmap)
        self._call("ceph-mon", "-c", self._config, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", "/dev/null")
        self._run("mon", "ceph-mon", "-c", self._config, "-i", "a", "-f")
        self._wait(lambda: self._ceph("-s") is not None, "the monitor", "mon")

    def _start_osd(self) -> None:
        osd = str(uuid.uuid4())
        self._insist("osd", "new", osd)
        self._call("ceph-osd", "-c", self._config, "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config")
        self._insist("osd", "crush", "add", "osd.0", "1.0", "host=h", "root=default")
        self._run("osd", "ceph-osd", "-c", self._config, "-i", "0", "-f")
        self._wait(lambda: b"1 up" in (self._ceph("osd", "stat") or b""), "the OSD", "osd")

    def _add_user(self, name: str, access_key: str, secret_key: str) -> None:
        admin = ("radosgw-admin", "-c", self._config, "user")
        create = ("--display-name", name, "--access-key", access_key, "--secret", secret_key)

        def exists() -> bool:
            return self._try(*admin, "create", "--uid", name, *create) or self._try(*admin, "info", "--uid", name)

        self._wait(exists, f"user {name}", "rgw")

    def _answers(self, path: str = "/") -> bool:
        try:
            with urllib.request.urlopen(self.endpoint + path, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False

    def _read_log(self) -> list[Access]:
        try:
            with open(os.path.join(self.directory, "log", "client.rgw.a.log"), "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return []
        return [
            Access(user.decode(), method.decode(), path.decode("utf-8", "surrogateescape"), int(status), int(size))
            for user, method, path, status, size in _LOG_LINE.findall(text)
        ]

    # ---- processes ------------------------------------------------------------------------------------------------------

    def _insist(self, *arguments: str) -> None:
        """A ``ceph`` command until it works: sent before the client has the monitor's map, it is refused."""
        self._wait(lambda: self._ceph(*arguments) is not None, f"'ceph {' '.join(arguments)}'", "mon")

    def _try(self, *command: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
        return False

    def _ceph(self, *arguments: str) -> bytes | None:
        """Output of one ``ceph`` command, or None when it failed."""
        command = ["ceph", "-c", self._config, "--connect-timeout", "5", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

    def _call(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise self._failure(
                f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}"
            )

    def _run(self, name: str, *command: str) -> None:
        with open(os.path.join(self.directory, "log", f"{name}.out"), "ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def pid_of(self, name: str) -> int:
        """Of one of its processes: ``rgw``, ``mon``, ``osd``."""
        return self._processes[name].pid

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(STOP_TIMEOUT_S)
                break
            except subprocess.TimeoutExpired:
                continue

    def _wait(self, ready: Callable[[], bool], what: str, name: str, timeout_s: float = START_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                raise self._failure(f"{name} ended while waiting for {what}")
            if time.monotonic() > deadline:
                raise self._failure(f"waited {timeout_s:.0f} s for {what}")
            time.sleep(0.05)

    def _failure(self, message: str) -> RuntimeError:
        return RuntimeError(f"{message}; see {self.directory}/log")


def main() -> None:
    """Run in the foreground until SIGTERM or SIGINT: ``python -m monofs.testing.ceph [DIRECTORY] [--port N]``."""
    parser = argparse.ArgumentParser(description="A throw-away S3 server (Ceph radosgw) on loopback.")
    parser.add_argument("directory", nargs="?", default="", help="where it keeps its files; default: a new one in /tmp")
    parser.add_argument("--port", type=int, default=0, help="port of the S3 server; 0: any free one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        directory = arguments.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="monofs-ceph-"))
        ceph = stack.enter_context(Ceph(directory, port=arguments.port))
        print(f"{ceph.endpoint} {ceph.access_key} {ceph.secret_key}", flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
