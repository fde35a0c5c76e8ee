"""What is forked from a warm interpreter is what ``python -m`` starts."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monofs.testing import processes

TELLS = """
import atexit, faulthandler, gc, json, os, random, resource, signal, sys, threading, time
from monofs.observe import failpoints

def stream(of):
    raw = getattr(of.buffer, "raw", of.buffer)
    how = of.line_buffering, of.write_through, of.isatty()
    return (of.name, of.mode, of.fileno(), type(of.buffer).__name__, type(raw).__name__, of.encoding, of.errors, *how)

told = {
    "argv": sys.argv[1:], "named": os.path.basename(sys.argv[0]), "original": sys.orig_argv, "path": sys.path, "flags": repr(sys.flags),
    "name": __name__, "main": sys.modules["__main__"].__dict__ is globals(),
    "environment": dict(os.environ), "directory": os.getcwd(), "umask": os.umask(0), "zone": time.tzname,
    "parent": os.getppid(), "leads": (os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()),
    "limits": [resource.getrlimit(limit) for limit in range(resource.RLIMIT_NOFILE + 3)],
    "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": repr(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "streams": [stream(sys.stdin), stream(sys.stdout), stream(sys.stderr), sys.stdin is sys.__stdin__],
    "descriptors": sorted(os.listdir("/proc/self/fd")), "tasks": len(os.listdir("/proc/self/task")),
    "threads": [each.name for each in threading.enumerate()], "collects": gc.isenabled(), "switch": sys.getswitchinterval(),
    "faults": faulthandler.is_enabled(), "failpoints": failpoints._armed, "reactor": "twisted.internet.reactor" in sys.modules,
    "asked": sys.stdin.read(),
}
atexit.register(print, "at the end")
print(json.dumps(told))
print("to standard error", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "tells.py").write_text(TELLS)
    (tmp_path / "draws.py").write_text("import random, uuid\nprint(random.random(), uuid.uuid4(), hash('seed'))")
    (tmp_path / "waits.py").write_text("import os\nos.write(1, b'here\\n')\ninput()")
    (tmp_path / "fails.py").write_text("raise ValueError('no')")
    return tmp_path


def forked(program: Path, name: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = processes.begin([sys.executable, "-m", name, *words], cwd=program, text=True, **pipes | options)
    assert (type(process) is subprocess.Popen) == (processes._owner == ("", 0))
    return process


def told(program: Path, **options: Any) -> tuple[Any, ...]:
    with forked(program, "tells", "7", "a b", "\udcff", **options) as process:
        out, err = process.communicate("said\n")
    first, *rest = out.splitlines()
    return json.loads(first), rest, err, process.returncode


@pytest.fixture
def changed() -> Any:
    """This process after it has changed what its children inherit."""
    umask, limits = os.umask(0o027), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.umask(umask)


@pytest.mark.parametrize("session", [False, True])
def test_a_fork_and_a_start_are_the_same_to_what_runs(program: Path, changed: None, session: bool) -> None:
    environment = dict(os.environ) | {"TZ": "Asia/Tokyo", "ODD": "\udcfe", "MONOFS_FAILPOINTS": "a=kill@2"}
    environment.pop("PWD", None)
    warm = told(program, env=environment, start_new_session=session)
    with processes.cold():
        started = told(program, env=environment, start_new_session=session)
    assert {name: value for name, value in warm[0].items() if started[0][name] != value} == {}
    assert warm[1:] == started[1:]


def test_a_fork_inherits_the_callers_standard_streams_and_a_failure_is_one(program: Path) -> None:
    with forked(program, "fails", stdin=None, stdout=None) as failed:
        _, err = failed.communicate()
    assert (failed.returncode, err.splitlines()[-1]) == (1, "ValueError: no")


def test_signals_end_a_fork_as_they_end_any_process(program: Path) -> None:
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, -2)):
        with forked(program, "waits") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            process.send_signal(number)
            assert process.wait(60) == code


def test_a_pipe_closes_with_the_process_that_has_it_while_others_live(program: Path) -> None:
    with forked(program, "waits") as other, forked(program, "waits") as process, forked(program, "waits") as later:
        process.kill()
        assert process.communicate(timeout=60)[0] == "here\n"
        other.communicate("\n", timeout=60)
        later.communicate("\n", timeout=60)


def test_no_two_forks_draw_alike_and_a_program_meets_two_hash_seeds(program: Path) -> None:
    drawn = []
    for _ in range(4):
        with forked(program, "draws") as process:
            drawn.append(process.communicate()[0].split())
    assert [len({each[n] for each in drawn}) for n in range(3)] == [4, 4, processes.WARM_COUNT]


def test_what_a_fork_cannot_be_is_started(program: Path) -> None:
    hashing = dict(os.environ) | {"PYTHONHASHSEED": "1"}
    for words, options in (
        ([sys.executable, "-c", "pass"], {}),
        ([sys.executable, "-m", "draws"], {"env": hashing, "cwd": program, "stdout": subprocess.DEVNULL}),
    ):
        with processes.begin(words, **options) as process:
            assert type(process) is subprocess.Popen
        assert process.returncode == 0


def test_a_fork_ends_with_its_caller(program: Path) -> None:
    ours, theirs = socket.socketpair()
    code = f"""if True:
        import os, sys
        from monofs.testing import processes
        with processes.kept_warm():
            process = processes.begin([sys.executable, "-m", "waits"], cwd={str(program)!r}, stdin={theirs.fileno()})
            os.write(1, (type(process).__name__ + "\\n").encode())
            sys.stdin.read()"""
    with ours:
        with theirs:
            caller = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]
            )
        with caller:
            assert caller.stdout is not None
            assert sorted([caller.stdout.readline(), caller.stdout.readline()]) == [b"_Forked\n", b"here\n"]
            caller.kill()
            ours.settimeout(60)
            assert ours.recv(1) == b"", "nobody has the other end any more"
