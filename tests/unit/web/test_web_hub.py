"""Topics: whoever watches, however slow, ends with the topic's value; each change is encoded once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from monofs.testing.visitors import changed
from monofs.web.hub import TOPICS_MAX, Hub, difference

KEYS = st.sampled_from(["a", "b", "c", "=", "-", "~"])
LEAVES = st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(0, 2), max_size=2)
VALUES = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8), max_size=4
)


class Page:
    """A browser that applies what it gets, as live.js does."""

    def __init__(self) -> None:
        self.is_full = False
        self.values: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        self.messages: list[bytes] = []
        self.skipped = 0

    def send(self, message: bytes) -> None:
        assert not self.is_full, "nothing is sent to one that is full"
        self.messages.append(message)
        told = json.loads(message)
        name = told["topic"]
        if "value" in told:
            self.values[name] = told["value"]
        elif "change" in told:
            self.values[name] = changed(self.values[name], told["change"])
        self.errors[name] = told.get("error")
        self.skipped += told.get("skipped", 0)


@given(VALUES, VALUES)
def test_a_change_makes_the_new_value_of_the_old_one(old, new):
    assert changed(old, difference(old, new)) == new
    assert difference(new, new) == {}


def test_a_number_that_becomes_a_truth_is_a_change():
    assert changed({"a": 1}, difference({"a": 1}, {"a": 2})) == {"a": 2}
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == {"~": {"a": {"=": {"c": 3}}}}


def test_one_change_is_encoded_once_for_all_who_watch():
    hub, pages = Hub(), [Page() for _ in range(5)]
    for page in pages:
        assert hub.watch("t", page)
    hub.publish("t", {"a": 1}, 1)
    hub.publish("t", {"a": 2}, 2)
    assert all(page.messages[-1] is pages[0].messages[-1] for page in pages)


def test_a_value_is_encoded_once_for_all_who_come():
    hub, first = Hub(), Page()
    hub.watch("t", first)
    hub.publish("t", {"a": 1}, 1)
    pages = [Page() for _ in range(5)]
    for page in pages:
        assert hub.watch("t", page)
    assert all(page.messages[0] is first.messages[0] for page in pages)
    hub.fail("t", {"code": 1})
    late = Page()
    hub.watch("t", late)
    assert (late.values["t"], late.errors["t"]) == ({"a": 1}, {"code": 1})


def test_a_slow_page_is_told_how_much_it_missed_and_slows_nobody():
    hub, slow, quick = Hub(), Page(), Page()
    hub.watch("t", slow)
    hub.watch("t", quick)
    hub.publish("t", {"a": 0}, 0)
    slow.is_full = True
    for number in range(1, 8):
        hub.publish("t", {"a": number}, number)
    assert quick.values["t"] == {"a": 7}
    assert slow.values["t"] == {"a": 0}
    slow.is_full = False
    hub.drained(slow)
    assert slow.values["t"] == {"a": 7}
    assert slow.skipped == 7
    hub.publish("t", {"a": 8}, 8)
    assert slow.values["t"] == {"a": 8}


def test_a_topic_that_fails_keeps_its_value_and_says_so_once():
    hub, page = Hub(), Page()
    hub.watch("t", page)
    hub.publish("t", {"a": 1}, 1)
    for _ in range(3):
        hub.fail("t", {"code": 7001})
    assert page.values["t"] == {"a": 1}
    assert page.errors["t"] == {"code": 7001}
    assert len(page.messages) == 2
    late = Page()
    hub.watch("t", late)
    assert late.values["t"] == {"a": 1}
    assert late.errors["t"] == {"code": 7001}
    hub.publish("t", {"a": 1}, 2)
    assert page.errors["t"] is None
    assert late.errors["t"] is None


def test_topics_of_one_watcher_are_bounded_and_nobodys_are_forgotten():
    hub, page = Hub(), Page()
    assert all(hub.watch(str(number), page) for number in range(TOPICS_MAX))
    assert not hub.watch("one more", page)
    assert hub.watch("0", page), "one it has already costs no room"
    hub.gone(page)
    assert hub.topics == {}
    hub.publish("0", {"a": 1}, 1)
    assert hub.topics == {}


class Watching(RuleBasedStateMachine):
    """Any order of publishing, failing, watching, leaving, filling and draining."""

    pages = Bundle("pages")

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()
        self.now: dict[str, Any] = {}
        self.held: dict[str, set[Page]] = {"t": set(), "u": set()}

    @rule(target=pages)
    def come(self):
        return Page()

    @rule(page=pages, topic=st.sampled_from(["t", "u"]))
    def watch(self, page, topic):
        if not self.held[topic]:
            self.now.pop(topic, None)
        page.values.pop(topic, None)
        assert self.hub.watch(topic, page)
        self.held[topic].add(page)

    @rule(page=pages, topic=st.sampled_from(["t", "u"]))
    def leave(self, page, topic):
        self.hub.leave(topic, page)
        self.held[topic].discard(page)

    @rule(page=consumes(pages))
    def go(self, page):
        self.hub.gone(page)
        for held in self.held.values():
            held.discard(page)

    @rule(topic=st.sampled_from(["t", "u"]), value=VALUES)
    def publish(self, topic, value):
        self.hub.publish(topic, value, 1)
        if self.held[topic]:
            self.now[topic] = value

    @rule(topic=st.sampled_from(["t", "u"]), code=st.integers(0, 2))
    def fail(self, topic, code):
        self.hub.fail(topic, {"code": code})

    @rule(page=pages)
    def fill(self, page):
        page.is_full = True

    @rule(page=pages)
    def drain(self, page):
        page.is_full = False
        self.hub.drained(page)

    @invariant()
    def who_is_not_full_has_the_value(self):
        for topic, held in self.held.items():
            for page in held:
                if not page.is_full and topic in self.now:
                    assert page.values.get(topic) == self.now[topic]


TestWatching = Watching.TestCase
TestWatching.settings = settings(max_examples=60, stateful_step_count=30)
