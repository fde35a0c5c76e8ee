"""The console of a large cluster: what it costs the master, what each browser is sent, and whether a browser still moves.

    python benchmarks/console_scale.py [--workers 3000] [--busy 3000] [--jobs 10000] [--entries 100000] [--dashboards 200] [--seconds 20] [--no-browser] [--json]

One master. Workers are simulated: one process beats their hearts, ``busy`` of them with other numbers each time, another answers what they are asked. Jobs look at directories of nothing; the
directory is a mounted local one. Each row: so many browsers, each a real WebSocket, look at one page; CPU is the master's process, all threads, from /proc, against nobody looking. Then one
Chromium opens the long pages. Everything shares the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from console import watched
from machine import machine

from monofs.testing.nodes import ServedNode

PAGES = {
    "overview": ("now", "overview"),
    "workers": ("now", "workers"),
    "jobs": ("now", "jobs"),
    "cache": ("now", "cache"),
    "mounts": ("now", "mounts", "mounts-use"),
    "journal": ("now", "journal", "journal_figures", "measures"),
    "browse": ("now", "file:/lake"),
}
"""Topics of each page."""
BEAT_S = 3.0
FIRST_PORT = 21_000


def place(number: int, port: int) -> str:
    """Where a simulated worker is."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}:{port}"


# ---- processes of simulated workers ----------------------------------------------------------------------------------------


def beat(doors: dict[str, Any], secret: str, workers: int, busy: int, port: int) -> None:
    """Live as so many workers until killed."""
    from monofs.cli.swarm import LIMIT_S, Served, Swarm
    from monofs.rpc.handshake import Credential

    served = Served(doors["pid"], doors["rpc"], Credential.from_file(secret))
    swarm = Swarm(served, BEAT_S, address=lambda number: place(number, port), busy=busy)
    for _ in range(workers):
        swarm.connect()
    for peer in swarm.peers:
        swarm.register(peer)
    swarm.run(lambda: swarm.live == workers, LIMIT_S)
    sys.stdout.write("all live\n")
    sys.stdout.flush()
    swarm.run(lambda: False, float("inf"), is_bound=False)


def answer(secret: str, port: int) -> None:
    """Answer as any worker until killed."""
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor

    from monofs.observe import metrics
    from monofs.rpc.api import Empty, HotAnswer, HotContent, HotRequest, Method, TierStatus, WorkerStatusAnswer
    from monofs.rpc.server import Security, listen_tcp
    from monofs.rpc.service import Service

    running: Any = reactor
    counters = metrics.snapshot()
    for mount in range(1, 9):
        counters |= {
            f"monofs_{name}{{mount={mount}}}": 1000.0 for name in ("page_hits", "page_misses", "store_read_bytes")
        }
    status = WorkerStatusAnswer(1, [TierStatus("SSD", "/cache", 1 << 40, 1 << 39, 0, 9000, "ok")], counters)
    hot = HotAnswer(1, [HotContent(at, 100.0 - at, time.time_ns(), 1 << 26, ["SSD"], False) for at in range(100)], [])
    service = Service("worker", running, cluster=bytes)
    service.register(Method.WORKER_STATUS, Empty, lambda _request, _call: status)
    service.register(Method.HOT, HotRequest, lambda _request, _call: hot)
    with open(secret) as file:
        security = Security(secret=file.read().strip().encode(), insecure=True)
    listen_tcp(running, service, "0.0.0.0", port, security=security)
    running.run()


# ---- what is measured -------------------------------------------------------------------------------------------------------


def browse(base: str, entries: int) -> dict[str, float]:
    """Seconds a person waits in a real browser, and milliseconds of its frames while scrolling."""
    from playwright.sync_api import sync_playwright

    found: dict[str, float] = {}
    scroll = """async (label) => {
      const box = [...document.querySelectorAll('.scroll')].find((each) => each.getAttribute('aria-label') === label);
      const times = [];
      let last = await new Promise(requestAnimationFrame);
      for (let at = 0; at < 60; at += 1) {
        box.scrollTop += box.scrollHeight / 60;
        const now = await new Promise(requestAnimationFrame);
        times.push(now - last);
        last = now;
      }
      times.sort((a, b) => a - b);
      return [times[30], times[57]];
    }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
        page.set_default_timeout(120_000)

        def timed(what: str, act: Any) -> None:
            began = time.monotonic()
            act()
            found[what] = round(time.monotonic() - began, 2)

        for name, label, words in (("workers", "Workers", "worker 1234"), ("jobs", "Jobs", "running")):
            page.goto(base)
            timed(f"{name}: first rows, s", lambda name=name: (page.goto(f"{base}/{name}"), page.locator("tbody tr:not(.pad)").first.wait_for()))  # fmt: skip
            found[f"{name}: frame while scrolling, median and 95 %, ms"] = page.evaluate(scroll, label)
            box = page.get_by_role("searchbox", name=f"Filter {label.lower()}")
            timed(f"{name}: filter, s", lambda box=box, words=words: (box.fill(words), page.get_by_text(" of ").first.wait_for()))  # fmt: skip
        timed("browse: first rows, s", lambda: (page.goto(f"{base}/browse/lake"), page.locator("tbody tr:not(.pad)").first.wait_for()))  # fmt: skip
        label = page.locator(".scroll").first.get_attribute("aria-label")
        box = page.get_by_role("searchbox", name="Filter files")
        wanted = f"f{entries - 1:06}"
        timed("browse: find the last of all, s", lambda: (box.fill(wanted), page.get_by_text(f"1 of {entries:,}").wait_for()))  # fmt: skip
        timed("browse: filter once all is loaded, s", lambda: (box.fill("f00001"), page.get_by_text(f" of {entries:,}").wait_for(), page.get_by_text("f000011", exact=True).wait_for()))  # fmt: skip
        box.fill("")
        found["browse: frame while scrolling, median and 95 %, ms"] = page.evaluate(scroll, label)
        browser.close()
    return found


def say(text: str) -> None:
    """How far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=3000)
    parser.add_argument("--busy", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--dashboards", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most 30: pings are not answered")
    parser.add_argument("--pages", default=",".join(PAGES))
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        told = json.loads(options.part)
        answer(**told["answer"]) if "answer" in told else beat(**told["beat"])
        return
    children: list[subprocess.Popen[str]] = []

    def child(**part: Any) -> subprocess.Popen[str]:
        words = [sys.executable, __file__, "--part", json.dumps(part)]
        children.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return children[-1]

    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory, ServedNode(f"{directory}/home", sets=["node.role=master"]) as node:
        try:
            secret, base, pid = f"{directory}/home/cluster.secret", node.doors["console"], node.doors["pid"]
            empty = node.memory_bytes()
            if options.workers:
                child(answer={"secret": secret, "port": FIRST_PORT})
                beating = child(beat={"doors": node.doors, "secret": secret, "workers": options.workers, "busy": options.busy, "port": FIRST_PORT})  # fmt: skip
                assert beating.stdout is not None
                if beating.stdout.readline() != "all live\n":
                    raise SystemExit("the workers did not come to live")
            say("the workers live")
            os.mkdir(f"{directory}/lake")
            for number in range(options.entries):
                os.close(os.open(f"{directory}/lake/f{number:06}", os.O_CREAT | os.O_WRONLY))
            with node.connect(cluster_secret_file=secret) as fs:
                fs.mount_add("/lake", f"file://{directory}/lake")
                count = sum(1 for _ in fs.list("/lake"))
                say(f"{count} entries")
                fs.make_directory("/of-jobs")
                with ThreadPoolExecutor(16) as threads:
                    list(threads.map(lambda _: fs.start_job("sync", "/of-jobs"), range(options.jobs)))
                jobs = len(fs.jobs())
                say(f"{jobs} jobs remembered")
            filled = node.memory_bytes()
            quiet = watched(base, (), 0, options.seconds, pid)["share"]
            say(f"nobody looks: {quiet}")
            for name in options.pages.split(","):
                for dashboards in (1, options.dashboards):
                    rows[f"{dashboards} on {name}"] = row = watched(base, PAGES[name], dashboards, options.seconds, pid)
                    say(f"{dashboards} on {name}: {row}")
            grown = node.memory_bytes()
            seen = {} if options.no_browser else browse(base, options.entries)
        finally:
            for each in children:
                each.terminate()
            for each in children:
                each.wait()
    told = {
        "machine": machine(),
        "command": " ".join(["python", *sys.argv]),
        "workers": options.workers, "jobs_remembered": jobs, "entries": count,
        "share_when_nobody_looks": round(quiet, 4),
        "pages": {name: {"added": round(row["share"] - quiet, 4), "bytes_s_each": round(row["bytes_s_each"]), "first_bytes_each": round(row["first_bytes_each"])} for name, row in rows.items()},
        "memory_bytes": {"empty": empty, "filled": filled, "looked at": grown},
        "browser": seen,
    }  # fmt: skip
    if options.json:
        print(json.dumps(told))
        return
    print(f"{told['machine']}\n{told['command']}")
    print(
        f"{options.workers} workers, {jobs} jobs remembered of {options.jobs}, {count} entries; nobody looks: {100 * quiet:.1f} % of a core"
    )
    for name, row in told["pages"].items():
        print(
            f"{name:20} adds {100 * row['added']:6.2f} %, {row['bytes_s_each']:8} bytes/s each, {row['first_bytes_each']:9} in the first 5 s"
        )
    print(", ".join(f"{name} {size >> 20} MiB" for name, size in told["memory_bytes"].items()))
    for name, value in seen.items():
        print(f"{name:60} {value}")


if __name__ == "__main__":
    main()
