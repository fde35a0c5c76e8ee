"""What benchmarks ask of the machine they run on: what it is, and how much of its processors was used; and how those with one figure a row show them."""

from __future__ import annotations

import contextlib
import json
import os
import platform

import monofs


def machine() -> str:
    """The machine and what runs on it, in a line."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, monofs {monofs.__version__}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


def cpu_s(pid: int) -> float:
    """Seconds of CPU a process has used, threads that have ended too; in steps of 10 ms."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fine_cpu_s(pid: int) -> float:
    """The same of the threads that live, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def show(found: dict[str, float], *, as_json: bool, about: str = "") -> None:
    """Print one figure a row, below the machine and what else is to be said."""
    if as_json:
        print(json.dumps(found))
        return
    print(f"{machine()}\n{about}".rstrip())
    for name, value in found.items():
        print(f"  {name:<66} {value:12.3f}")
