"""Consoles of a group of three masters and a worker, with their sockets open, while leaders die, hand over and come back and a worker is lost: each says that what it shows is old, then what is so."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monofs.testing.masters import Masters, wait_until
from monofs.testing.nodes import ServedNode
from monofs.testing.ports import free_ports
from monofs.testing.visitors import Socket, Visitor, changed
from monofs.web.routes import PREFIX

pytestmark = pytest.mark.system
TOPICS = ("now", "overview", "journal", "workers", "jobs", "mounts")


class Screen(threading.Thread):
    """What one browser shows: the newest value and trouble of each topic, as live.js keeps them; and all it was ever told of who leads."""

    def __init__(self, node: ServedNode, token: str, *topics: str) -> None:
        super().__init__(daemon=True)
        visitor = Visitor(node.doors["console"])
        self.visitor = visitor.sign_in(token) if token else visitor.enter()
        self.socket: Socket = self.visitor.watch(*TOPICS, *topics)
        self.socket.sock.settimeout(None)  # a node may stand still for long
        self.values: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.at_ms: dict[str, int] = {}
        self.led: list[tuple[int, bool]] = []
        """(term, leads) of each overview that was not said to be old."""
        self.is_lost = False
        self.start()

    def run(self) -> None:
        try:
            while (message := self.socket.receive()) is not None:
                self._take(message)
        except OSError:
            pass
        self.is_lost = True

    def _take(self, message: dict[str, Any]) -> None:
        topic = message["topic"]
        if "value" in message:
            self.values[topic] = message["value"]
        elif "change" in message:
            self.values[topic] = changed(self.values[topic], message["change"])
        self.errors[topic] = message.get("error", {}).get("error", "")
        self.at_ms[topic] = message.get("at", 0)
        if topic == "overview" and not self.errors[topic]:
            cluster = self.values[topic]["cluster"]
            self.led.append((cluster["term"], cluster["leads"]))

    def is_fresh(self, topic: str) -> bool:
        return topic in self.values and not self.errors[topic]

    def leader(self) -> str:
        """The name it shows, if it shows one as so now."""
        journal = self.values.get("journal")
        if not journal or self.errors["journal"] or not self.is_fresh("overview"):
            return ""
        return next((each["name"] for each in journal["members"] if each["id"] == journal["leader"]), "")


class House:
    def __init__(self, directory: Path) -> None:
        self.masters = Masters(str(directory / "group"))
        for name, port in zip(self.masters.nodes, free_ports(3), strict=True):
            self.masters.nodes[name].sets.append(f"console.port={port}")
        self.worker = ServedNode(str(directory / "worker"), sets=[f"worker.masters={self.masters.addresses}"])
        self.worker.flags = ["--role", "worker", "--cluster-secret-file", self.masters.secret]

    @property
    def nodes(self) -> dict[str, ServedNode]:
        return self.masters.nodes

    def followers(self) -> list[str]:
        leader = self.masters.leader()
        return [name for name in self.nodes if name != leader]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("consoles"))
    with made.masters, made.worker:
        yield made


@pytest.fixture
def screens(house: House) -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def look(name: str, *topics: str) -> Screen:
        opened.append(Screen(house.nodes[name], "", *topics))
        return opened[-1]

    yield look
    for each in opened:
        each.socket.close()


def shows(screen: Screen, leader: str) -> bool:
    return screen.leader() == leader and screen.is_fresh("workers") and screen.is_fresh("overview")


def test_every_console_shows_the_cluster_through_the_one_that_leads(house, screens):
    leader = house.masters.leader()
    looking = {name: screens(name) for name in house.nodes}
    with house.masters.connect() as fs:
        looking["worker"] = Screen(house.worker, fs.token_add("ada", "read").token)
        fs.make_directory("/seen")
        fs.start_job("sync", "/seen")
        wait_until(
            lambda: all(
                shows(each, leader) and each.values["overview"]["workers"]["live"] == 1 and each.values.get("jobs")
                for each in looking.values()
            ),
            "a console does not show the cluster",
        )
        report = fs.report()
    for each in looking.values():
        overview = each.values["overview"]
        assert (overview["cluster"]["id"], overview["cluster"]["leads"]) == (report["cluster"]["id"], True)
        assert overview["namespace"]["inodes"] == report["namespace"]["inodes"]
        assert [row["address"] for row in each.values["workers"].values()] == [house.worker.doors["worker"]]
    looking["worker"].socket.close()


def test_while_nobody_leads_numbers_are_old_and_then_those_of_the_next_leader(house, screens):
    leader = house.masters.leader()
    looking = {name: screens(name) for name in house.followers()}
    wait_until(lambda: all(shows(each, leader) for each in looking.values()), "a console does not show the cluster")
    term = looking[house.followers()[0]].led[-1][0]
    house.nodes[leader].kill()
    rest = [name for name in house.nodes if name != leader]

    wait_until(
        lambda: all(each.led[-1][0] > term and each.leader() in rest for each in looking.values()),
        "no console shows the next leader",
    )
    for each in looking.values():
        assert all(leads for _, leads in each.led), (
            "what a master that does not lead knows of the cluster was shown as so"
        )
        terms = [number for number, _ in each.led]
        assert terms == sorted(terms), "what the last leader said was shown after the next one's"
        assert each.at_ms["now"], "its own charts went on"
    wait_until(
        lambda: all(each.values["overview"]["workers"]["live"] == 1 for each in looking.values()),
        "the worker is not shown again",
    )
    house.nodes[leader].start()
    wait_until(lambda: shows(screens(leader), house.masters.leader()), "a master that came back shows nothing")


def test_a_leader_that_stands_still_is_not_taken_for_news(house, screens):
    leader = house.masters.leader()
    looking = {name: screens(name) for name in house.followers()}
    of_leader = screens(leader)
    wait_until(lambda: all(shows(each, leader) for each in looking.values()), "a console does not show the cluster")
    house.masters.signal(leader, signal.SIGSTOP)
    try:
        rest = [name for name in house.nodes if name != leader]
        wait_until(
            lambda: all(each.leader() in rest for each in looking.values()),
            "the next leader is not shown, as if the one that stands still might answer yet",
        )
    finally:
        house.masters.signal(leader, signal.SIGCONT)
    wait_until(lambda: of_leader.leader() in rest, "one that led before does not show who leads")
    assert not of_leader.is_lost


def test_leadership_that_is_handed_over_is_shown_everywhere(house, screens):
    leader, follower = house.masters.leader(), house.followers()[0]
    looking = {name: screens(name) for name in house.nodes}
    wait_until(lambda: all(shows(each, leader) for each in looking.values()), "a console does not show the cluster")
    house.masters.hand_over(follower)
    wait_until(lambda: all(shows(each, follower) for each in looking.values()), "who leads is not shown everywhere")


def test_the_first_change_after_another_took_over_is_made_and_recorded_once(house, screens):
    """What a master did not journal, such as a mount that was only tried, it does not know the asker by afterwards."""
    visitor = screens(house.followers()[0]).visitor
    tried = visitor.change("POST", f"{PREFIX}/mounts", {"path": "/tried", "uri": "file:///", "dry_run": True})
    assert tried.status == 200, tried.body
    follower = house.followers()[0]
    house.masters.hand_over(follower)
    changed = visitor.change("PUT", f"{PREFIX}/policies", {"path": "/first-change", "priority": "LOW"})
    assert changed.status == 200, changed.body
    logs = [Path(node.home, "audit.log").read_text() for node in house.nodes.values()]
    lines = [json.loads(line) for log in logs for line in log.splitlines()]
    assert [each["succeeded"] for each in lines if each["source"] == "/first-change"] == [True]
    assert any(
        each["command"] == "quorum transfer" and each["source"] == follower and each["succeeded"] for each in lines
    )


def test_a_page_whose_node_was_killed_is_cut_off_at_once_and_shows_what_is_so_when_that_is_back(house, screens):
    name = house.followers()[0]
    node = house.nodes[name]
    screen = screens(name)
    wait_until(lambda: screen.is_fresh("overview"), "nothing is shown")
    node.kill()
    wait_until(lambda: screen.is_lost, "the page is not told")
    with house.masters.connect(*(each for each in house.nodes if each != name)) as fs:
        fs.make_directory("/made-meanwhile")
        inodes = fs.report()["namespace"]["inodes"]
    node.start()
    session = Visitor(node.doors["console"]).ask("GET", f"{PREFIX}/session", cookie=screen.visitor.cookie)
    assert session.status == 200
    assert session.json()["csrf"] != screen.visitor.csrf, "the page loads itself anew"
    again = screens(name)
    wait_until(lambda: again.is_fresh("overview"), "nothing is shown")
    assert again.values["overview"]["namespace"]["inodes"] == inodes


def test_a_lost_worker_is_said_to_be_lost_and_its_numbers_to_be_unknown(house, screens):
    """The last one: the worker does not come back."""
    screen = screens(house.followers()[0])
    wait_until(lambda: screen.is_fresh("workers"), "nothing is shown")
    (number,) = screen.values["workers"]
    one = screens(house.masters.leader(), f"worker:{number}", "cache", "mounts-use")
    wait_until(lambda: one.values.get(f"worker:{number}", {}).get("counters"), "the worker does not tell its counters")
    house.worker.kill()
    wait_until(lambda: one.values[f"worker:{number}"]["error"], "a worker that does not answer is shown as if it did")
    wait_until(lambda: not screen.values["workers"][number]["live"], "a lost worker is shown as living")
    wait_until(lambda: screen.values["overview"]["workers"]["silent"] == 1, "the overview does not know")
    assert screen.values["overview"]["workers"]["live"] == 0
    wait_until(lambda: not one.values[f"worker:{number}"]["tiers"], "what it has is not known, and is shown")
    wait_until(lambda: one.values["cache"]["workers"] == 0, "it counts among those that told")
    assert json.dumps(one.values["workers"])
