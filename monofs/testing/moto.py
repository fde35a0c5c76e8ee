"""A quick S3 server for the happy path: moto, in a process of its own.

It accepts any key and any signature and keeps all objects in memory, so it proves nothing about credentials and is never measured.
Needs ``pip install 'moto[server]'``; :func:`missing` says so. Not here: truth about S3 (see ``ceph``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from monofs.testing.ports import free_port

START_TIMEOUT_S = 60.0


def missing() -> str | None:
    """Why moto cannot run here, or None."""
    found = importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None
    return None if found else "moto is not installed: pip install 'moto[server]'"


class Moto:
    """One running server. Use as a context manager, or call ``start`` and ``stop``."""

    access_key = "AKIAMAIN"
    secret_key = "secretmain"

    def __init__(self, *, port: int = 0) -> None:
        self.port = port or free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Moto:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers. Raises ``RuntimeError``."""
        reason = missing()
        if reason:
            raise RuntimeError(reason)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self.port), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"moto did not start on port {self.port}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and forget all objects; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint + "/moto-api/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False


_SERVER = """
import os, sys, threading, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

port, parent = int(sys.argv[1]), int(sys.argv[2])

def watch():
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)

threading.Thread(target=watch, daemon=True).start()
WSGIRequestHandler.protocol_version = "HTTP/1.1"
WSGIRequestHandler.disable_nagle_algorithm = True
run_simple("127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True)
"""
