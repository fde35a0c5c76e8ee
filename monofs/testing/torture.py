"""Real masters under clients and faults, by a seed: is anything acknowledged ever lost, is any read ever stale, do they agree again?

``python -m monofs.testing.torture --minutes N --seed S``: bursts of clients (workload.py, scribes.py) while masters are killed, paused, cut off, given broken
and full disks, made to hand over, added, removed and replaced, and workers are killed (nemesis.py, membership.py). After each burst all is healed; then the
group must lead, write, converge to the same state by its CRC, hold all that was acknowledged, the store too, and the burst's history must be linearizable. At the end
every home is checked offline. The same seed draws the same faults; when they strike depends on the machine. Exit code 1: something was lost or wrong;
the homes, the masters' output and the words stay.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from monofs.model.errors import MonofsError
from monofs.node.offline import check_home
from monofs.rpc.handshake import Credential
from monofs.rpc.sync import Pool
from monofs.testing import netlab, smalldisk
from monofs.testing.masters import Masters, wait_until
from monofs.testing.nemesis import Nemesis
from monofs.testing.netlab import Lab
from monofs.testing.nodes import ServedNode
from monofs.testing.scribes import Scribe
from monofs.testing.smalldisk import SmallDisk
from monofs.testing.watch import Watch
from monofs.testing.workload import CLIENT_TIMEOUT_S, Client, Contender, Owner, Record, Straggler

SETS = [
    "journal.segment_bytes=524288",
    "journal.keep_bytes=8388608",
    "journal.retain_bytes=16777216",
    "namespace.flush_changes=500",
]
"""Small, so that segments are reused and members that were away need the whole state."""
BURST_S = 12.0
PATHS = 6
WORKERS = 2
SCRIBES = 2
MOUNT = "/store"
HEAL_S = 90.0
ASK_S = 3.0


@dataclass
class Figures:
    """What a trial came to."""

    bursts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    undecided: int = 0
    terms: int = 0
    longest_leaderless_s: float = 0.0
    longest_silence_s: float = 0.0
    """Between two acknowledged changes within a burst."""
    longest_recovery_s: float = 0.0
    """From the end of all faults to an acknowledged change."""
    installs: int = 0
    """States installed in the place of an old one."""


class Trial:
    """One run of :meth:`run`; ``say`` takes its progress."""

    def __init__(
        self,
        directory: str,
        seed: str,
        *,
        count: int,
        clients: int,
        read_lease: bool,
        lab: Lab | None,
        small: SmallDisk | None,
    ) -> None:
        self.random = random.Random(seed)
        self.seed, self._clients = seed, clients
        sets = [*SETS, f"journal.read_lease={str(read_lease).lower()}"]
        self.masters = Masters(directory, count, sets=sets, lab=lab, program="monofs.testing.faulty")
        self.watch = Watch(self.masters)
        self._workers = [ServedNode(str(Path(directory, f"w{number + 1}"))) for number in range(WORKERS)]
        self._store = Path(directory, "store")
        self.nemesis = Nemesis(self.masters, self.watch, self.random, self._workers, small)
        self.figures = Figures()

    def run(self, seconds: float) -> Figures:
        """All bursts, then the last look at every home."""
        with self.masters:
            try:
                self._begin()
                self.watch.start()
                end = time.monotonic() + seconds
                while time.monotonic() < end and not self.figures.wrongs:
                    self._burst(min(BURST_S, max(end - time.monotonic(), 3.0)))
            finally:
                self.watch.stop()
                self._sum_up()
            codes = {worker.home: worker.stop() for worker in self._workers}
            codes |= {name: node.stop() for name, node in self.masters.nodes.items()}
            for name, code in codes.items():
                self._wrong_if(code != 0, f"{name} ended with {code} when it was told to stop")
        for name, node in self.masters.nodes.items():
            self._check_offline(name, node.home)
        return self.figures

    def _begin(self) -> None:
        """What a group that has formed needs further: a master to come, workers, a store."""
        masters, spare = self.masters, f"m{len(self.masters.nodes) + 1}"
        masters.add(spare)
        del masters.nodes[spare]
        self.nemesis.membership.spare.append(spare)
        host = netlab.HUB_ADDRESS if masters.lab is not None else "127.0.0.1"
        everyone = ",".join(map(masters.rpc, masters.rpc_ports))
        for worker in self._workers:
            worker.sets += [f"worker.masters={everyone}", f"worker.host={host}"]
            worker.flags = ["--role", "worker", "--cluster-secret-file", masters.secret]
            worker.launch()
        for worker in self._workers:
            worker.wait_ready()
        self._store.mkdir()
        with masters.connect(timeout_s=HEAL_S) as fs:
            fs.mount_add(MOUNT, f"file://{self._store}")

    def _sum_up(self) -> None:
        figures, watch = self.figures, self.watch
        figures.faults = self.nemesis.faults
        figures.terms = len(watch.leaders)
        figures.longest_leaderless_s = watch.longest_gap_s
        figures.wrongs += watch.wrongs

    # ---- one burst --------------------------------------------------------------------------------------------------------

    def _burst(self, seconds: float) -> None:
        figures, record = self.figures, Record()
        figures.bursts += 1
        number = figures.bursts
        with self._connect(HEAL_S) as fs:
            fs.make_directory(f"/b{number}")
            clients = self._make_clients(number, record, fs)
        everyone: list[Client | Straggler] = [*clients, self._make_straggler(number, record)]
        for each in everyone:
            each.start()
        self.nemesis.rage(seconds)
        self.nemesis.heal()
        healed = time.monotonic()
        self._try("no master leads again", self._write_again, f"/b{number}/healed")
        figures.longest_recovery_s = max(figures.longest_recovery_s, time.monotonic() - healed)
        self._try("a replacement was not ended", self.nemesis.finish)
        figures.wrongs += self.nemesis.wrongs
        for each in everyone:
            each.stopping.set()
        for each in everyone:
            each.join(HEAL_S)
            self._wrong_if(each.is_alive(), f"{each.name} hangs")
        self._take_in(record)
        self._try("the masters do not converge", self._converge)
        for client in clients:
            if isinstance(client, (Owner, Scribe)):
                self._try("names cannot be listed", self._check_names, client)
        print(
            f"burst {number}: {len(record.acknowledged)} changes acknowledged, "
            f"faults so far: {', '.join(f'{n} {k}' for k, n in sorted(self.nemesis.faults.items()))}",
            flush=True,
        )

    def _make_clients(self, number: int, record: Record, fs: Any) -> list[Client]:
        clients: list[Client] = []
        seed = f"{self.seed}/{number}"
        paths = [f"/b{number}/p{path}" for path in range(PATHS)]
        for each in range(self._clients):
            if each % 3 == 2:
                owner = Owner(each, self._connect, record, seed)
                owner.home = f"/b{number}/own{each}"
                fs.make_directory(owner.home)
                clients.append(owner)
            else:
                contender = Contender(each, self._connect, record, seed)
                contender.paths = paths
                clients.append(contender)
        for each in range(self._clients + 1, self._clients + 1 + SCRIBES):  # the straggler is between
            scribe = Scribe(each, self._connect, record, seed)
            where = f"b{number}-{each}"
            scribe.home, scribe.store = f"{MOUNT}/{where}", self._store / where
            clients.append(scribe)
        return clients

    def _make_straggler(self, number: int, record: Record) -> Straggler:
        masters = self.masters
        credential = Credential.from_file(masters.secret)
        paths = [f"/b{number}/p{path}" for path in range(PATHS)]
        return Straggler(
            self._clients,
            paths,
            self.watch.leader,
            lambda name: Pool(masters.rpc(name), credential),
            record,
            f"{self.seed}/{number}",
        )

    def _connect(self, timeout_s: float = CLIENT_TIMEOUT_S) -> Any:
        """A client of all masters there ever are."""
        return self.masters.connect(*self.masters.rpc_ports, timeout_s=timeout_s)

    def _write_again(self, path: str) -> None:
        """Wait until a change is acknowledged."""
        errors: list[Exception] = []

        def is_written() -> bool:
            self.nemesis.revive()
            try:
                with self._connect(ASK_S) as fs:
                    fs.make_directory(path, exist_ok=True)
            except (MonofsError, OSError) as error:
                errors.append(error)
                return False
            return True

        try:
            wait_until(is_written, "nothing is acknowledged", patience_s=HEAL_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {errors[-1]}; as they see it: {self.watch.answers}") from None

    def _take_in(self, record: Record) -> None:
        figures = self.figures
        figures.outcomes += record.outcomes
        figures.errors += record.errors
        times = sorted(record.acknowledged)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        figures.longest_silence_s = max(figures.longest_silence_s, max(gaps, default=0.0))
        wrongs, undecided = record.judge()
        figures.wrongs += wrongs
        figures.undecided += undecided

    # ---- checks -----------------------------------------------------------------------------------------------------------

    def _converge(self) -> None:
        """Every master has applied the same entries with the same result, and says so."""
        told: dict[str, tuple[int, int]] = {}

        def agree() -> bool:
            for name in self.masters.nodes:
                try:
                    with self.masters.connect(name, timeout_s=ASK_S) as fs:
                        answer = fs.quorum()
                except (MonofsError, OSError):  # one that installs a state starts anew
                    return False
                told[name] = answer.applied_index, answer.crc
            return len({index for index, _ in told.values()}) == 1

        try:
            wait_until(agree, "they do not apply the same entries", patience_s=HEAL_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {told}; as they see it: {self.watch.answers}") from None
        self._wrong_if(len(set(told.values())) != 1, f"the masters' states differ at one index: {told}")

    def _check_names(self, owner: Owner | Scribe) -> None:
        with self._connect(HEAL_S) as fs:
            self.figures.wrongs += owner.missing(fs)

    def _check_offline(self, name: str, home: str) -> None:
        try:
            checks = check_home(home)
        except (MonofsError, OSError) as error:
            self.figures.wrongs.append(f"the home of {name} cannot be checked: {error!r}")
            return
        for check, findings in checks.items():
            self._wrong_if(bool(findings), f"{name}: {check}: {findings[:3]}")

    def _try(self, what: str, act: Any, *arguments: Any) -> None:
        """Liveness: after healing this must work."""
        try:
            act(*arguments)
        except (MonofsError, OSError, AssertionError) as error:
            self.figures.wrongs.append(f"{what}: {error}")

    def _wrong_if(self, wrong: bool, words: str) -> None:
        if wrong:
            self.figures.wrongs.append(words)


def show(figures: Figures, seconds: float) -> None:
    """Print the figures as a table."""
    known = sum(n for name, n in figures.outcomes.items() if not name.endswith("unknown"))
    unknown = sum(n for name, n in figures.outcomes.items() if name.endswith("unknown"))
    rows: list[tuple[str, object]] = [
        ("seconds", round(seconds)),
        ("bursts, each healed and checked", figures.bursts),
        ("faults done", sum(n for name, n in figures.faults.items() if is_fault(name))),
        *((f"  {name}", count) for name, count in sorted(figures.faults.items())),
        ("operations with an answer", known),
        ("operations of unknown outcome", unknown),
        *((f"  {name}", count) for name, count in sorted(figures.outcomes.items())),
        *((f"  error, {name}", count) for name, count in sorted(figures.errors.items())),
        ("terms with a leader", figures.terms),
        ("longest time without a leader, s", round(figures.longest_leaderless_s, 2)),
        ("longest time without an acknowledged change, s", round(figures.longest_silence_s, 2)),
        ("longest recovery after all faults ended, s", round(figures.longest_recovery_s, 2)),
        ("states installed by followers", figures.installs),
        ("histories too large to judge", figures.undecided),
        ("lost or wrong", len(figures.wrongs)),
    ]
    for name, value in rows:
        print(f"{name:52} {value}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monofs.testing.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, about [default: 1]")
    parser.add_argument("--seed", default="", help="draws the faults and the clients' choices [default: a new one]")
    parser.add_argument("--masters", type=int, default=3, help="3 or 5 [default: 3]")
    parser.add_argument("--clients", type=int, default=6, help="a third of them with names of their own [default: 6]")
    parser.add_argument(
        "--directory", default="", help="where homes are [default: a new one, removed when all is well]"
    )
    parser.add_argument("--read-lease", action="store_true", help="leaders answer reads by a lease")
    parser.add_argument("--no-cuts", action="store_true", help="no network namespaces: nobody is cut off")
    options = parser.parse_args()
    seed = options.seed or str(random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}", flush=True)
    reason = "told so" if options.no_cuts else netlab.why_not()
    if reason:
        print(f"no cuts: {reason}")
    directory = options.directory or tempfile.mkdtemp(prefix="monofs-torture-")
    names = [f"m{number + 1}" for number in range(options.masters + 1)]  # one is to come
    lab = None if reason else Lab(names)
    no_disk = smalldisk.why_not()
    if no_disk:
        print(f"no full disk: {no_disk}")
    small = None if no_disk else SmallDisk(str(Path(directory, names[0]))).open()
    began = time.monotonic()
    if lab is not None:
        lab.open()
        lab.enter()
    try:
        trial = Trial(
            directory,
            seed,
            count=options.masters,
            clients=options.clients,
            read_lease=options.read_lease,
            lab=lab,
            small=small,
        )
        figures = trial.run(options.minutes * 60)
        figures.installs = count_installs(directory)
    finally:
        if small is not None:
            small.close()
        if lab is not None:
            lab.close()
    for when, gap_s in trial.watch.gaps:
        print(f"no leader seen for {gap_s:.1f} s until {datetime.fromtimestamp(when, UTC).time()}")
    show(figures, time.monotonic() - began)
    for wrong in figures.wrongs:
        print(f"WRONG: {wrong}")
    if figures.wrongs:
        print(f"seed {seed}; everything is kept in {directory}; a home that was a disk of its own is in its .img")
        return 1
    if not options.directory:
        shutil.rmtree(directory)
    return 0


def is_fault(name: str) -> bool:
    """Whether this counts what was done to masters, rather than what they did or refused."""
    return not name.startswith("ended") and not name.endswith(", refused")


def count_installs(directory: str) -> int:
    """How often a master installed a state, by the logs."""
    found = subprocess.run(
        ["grep", "-rch", "installing the state", directory, "--include=monofs.log*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(int(line) for line in found.stdout.split() if line.isdigit())


if __name__ == "__main__":
    sys.exit(main())
