"""Random lives of a cache against a model: whatever is done in whatever order, every named invariant holds after each step, and a
restart, clean or after a kill at any lag of the index, finds what it should and never a wrong byte."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiering_rig import PAGE, Rig

from monofs.model.block import LAYOUT_WHOLE
from monofs.model.errors import QuotaExceeded, TierFull
from monofs.model.ids import ContentId
from monofs.model.options import Priority
from monofs.tiering import admission
from monofs.tiering.cache import Group, Rule, TierSpec
from monofs.tiering.group import mask_bytes, mask_pages
from monofs.tiering.orders import POLICIES

CONTENTS = st.integers(1, 6)
LENGTHS = {1: 3, 2: 5000, 3: PAGE, 4: PAGE + 9, 5: 2 * PAGE, 6: 3 * PAGE - 1}
WHOLE = dict.fromkeys((2, 4, 6), LAYOUT_WHOLE)
"""Contents whose groups share a file."""
QUOTA = 5 * PAGE
Key = tuple[int, int]


@dataclass
class Known:
    """What the model knows of one group."""

    group: Group
    present: int = 0
    verified: bool = True
    kept: bool = False


@dataclass
class Stored:
    """What the durable index knew at its last flush."""

    groups: dict[Key, tuple[int, Path]] = field(default_factory=dict)
    kept: dict[Key, int] = field(default_factory=dict)
    pins: set[int] = field(default_factory=set)
    cursor: int = 0


class CacheMachine(RuleBasedStateMachine):
    @initialize(eviction=st.sampled_from(POLICIES))
    def begin(self, eviction: str) -> None:
        self.eviction = eviction
        self.part, admission.PART = admission.PART, 0  # files reach far beyond what is in them
        self.top = Path(tempfile.mkdtemp(prefix="tier-machine-"))
        self.lives = 0
        self.known: dict[Key, Known] = {}
        self.pins: set[int] = set()
        self.cursor = 0
        self.held: list[Group] = []
        self.reservations: list[tuple[Group, int]] = []
        self.rules: dict[int, Rule] = {}
        self.stored = Stored()
        self.rig = self.new_rig(self.top / "0")
        self.rig.open()

    def new_rig(self, home: Path) -> Rig:
        rig = Rig(
            home,
            [TierSpec("TOP", str(home / "top"), QUOTA // 2), TierSpec("LOW", str(home / "low"), QUOTA // 2)],
            eviction=self.eviction,
            watermark=0.5,
        )
        rig.layouts = WHOLE
        return rig

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        admission.PART = self.part
        try:
            self.let_go()
            self.rig.pump()
            self.rig.check()
            self.rig.reopen()
            self.rig.check()
        finally:
            self.rig.cache.close()
            shutil.rmtree(self.top)

    def let_go(self) -> None:
        for group, mask in self.reservations:
            self.rig.cache.unreserve(group, mask)
        for group in self.held:
            self.rig.cache.release(group)
        self.reservations, self.held = [], []
        self.reconcile()

    def reconcile(self) -> None:
        """Groups may leave by eviction, but never pinned, held or half-written ones."""
        for key, known in list(self.known.items()):
            if not known.group.alive:
                assert key[0] not in self.pins or not known.present, key  # an empty one goes when its fetch failed
                assert not known.kept, key
                assert known.group not in self.held, key
                assert all(known.group is not group for group, _ in self.reservations)
                del self.known[key]

    # ---- policies -----------------------------------------------------------------------------------------------------

    @rule(
        policy=st.integers(1, 2),
        quota=st.sampled_from((None, 0, PAGE, 3 * PAGE)),
        priority=st.sampled_from(list(Priority)),
    )
    def rule_policy(self, policy: int, quota: int | None, priority: str) -> None:
        self.rules[policy] = Rule(quota, priority)
        self.rig.cache.set_groups(self.rules)
        self.reconcile()

    @rule(content=CONTENTS, policy=st.integers(0, 2))
    def regroup(self, content: int, policy: int) -> None:
        self.rig.cache.regroup(ContentId(content), 2 * policy)
        self.reconcile()

    # ---- keeping ------------------------------------------------------------------------------------------------------

    @rule(content=CONTENTS, number=st.integers(0, 1))
    def keep(self, content: int, number: int) -> None:
        """A content no store has is written once, all of it, and durable before anybody hears of it."""
        if any(key[0] == content for key in self.known) or content in self.rig.cache.kept:
            return
        try:
            group = self.rig.admit(content, LENGTHS[content], number, durable=True)
        except TierFull:
            self.reconcile()
            return
        self.rig.cache.hold(group)
        try:
            taken = self.rig.cache.reserve(group, group.pages)
        except TierFull:
            self.rig.cache.release(group)
            self.reconcile()
            return
        assert taken == group.pages
        self.rig.cache.commit(group, self.rig.write(group, taken), keep=True)
        self.rig.cache.release(group)
        self.known[group.key] = Known(group, taken, kept=True)
        self.reconcile()
        self.flush()

    def kept(self, content: int) -> bool:
        return any(known.kept for key, known in self.known.items() if key[0] == content)

    # ---- filling ------------------------------------------------------------------------------------------------------

    @rule(content=CONTENTS, number=st.integers(0, 1), mask=st.integers(1, 7), policy=st.integers(0, 2))
    def reserve(self, content: int, number: int, mask: int, policy: int) -> None:
        if self.kept(content):
            return
        try:
            group = self.rig.admit(content, LENGTHS[content], number, policy=policy)
            taken = self.rig.cache.reserve(group, mask)
        except (TierFull, QuotaExceeded):
            self.settle_refused(content, number)
            self.reconcile()
            return
        if taken:
            self.reservations.append((group, taken))
        self.settle_empty(group)
        if group.alive:
            self.known.setdefault(group.key, Known(group))
            if self.known[group.key].group is not group:
                self.known[group.key] = Known(group)
        self.reconcile()

    def settle_refused(self, content: int, number: int) -> None:
        group = self.rig.cache.lookup(ContentId(content), number)
        if group is not None:
            self.settle_empty(group)

    def settle_empty(self, group: Group) -> None:
        """An admitted group for which nothing was reserved stays empty until somebody fills or fails it."""
        if group.alive and not (group.present or group.reserved or group.holds):
            self.rig.cache.hold(group)
            self.rig.cache.release(group)

    @precondition(lambda self: self.reservations)
    @rule(data=st.data(), share=st.integers(0, 7))
    def finish(self, data: st.DataObject, share: int) -> None:
        """A fetch ends: some of its pages were written, the others failed."""
        group, mask = self.reservations.pop(data.draw(st.integers(0, len(self.reservations) - 1)))
        written = mask & share
        was_alive = group.alive
        self.rig.cache.commit(group, self.rig.write(group, written))
        self.rig.cache.unreserve(group, mask & ~written)
        if was_alive:
            self.known[group.key].present |= written
        self.reconcile()

    @rule(content=CONTENTS, number=st.integers(0, 1), mask=st.integers(1, 7), policy=st.integers(0, 2))
    def fill(self, content: int, number: int, mask: int, policy: int) -> None:
        before = len(self.reservations)
        self.reserve(content, number, mask, policy)
        if len(self.reservations) > before:
            group, taken = self.reservations.pop()
            self.known[group.key].present |= taken
            self.rig.cache.commit(group, self.rig.write(group, taken))
            self.reconcile()

    # ---- using --------------------------------------------------------------------------------------------------------

    def some(self, data: st.DataObject) -> Group:
        return self.known[data.draw(st.sampled_from(sorted(self.known)))].group

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self.rig.cache.touch(self.some(data))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        group = self.some(data)
        self.rig.cache.hold(group)
        self.held.append(group)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        group = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.rig.cache.release(group)
        self.reconcile()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        group = self.some(data)
        for page in mask_pages(group.present):
            expected = self.rig.data(group, page)
            self.rig.cache.hold(group)
            assert self.rig.cache.read(group, page * PAGE, len(expected)) == expected
            self.rig.cache.release(group)
        self.pump()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def verify(self, data: st.DataObject) -> None:
        group = self.some(data)
        assert self.rig.cache.check_pages(group, group.present) == 0
        group.verified = True
        self.known[group.key].verified = True

    # ---- dropping -----------------------------------------------------------------------------------------------------

    def forget(self, content: int) -> None:
        self.known = {key: known for key, known in self.known.items() if key[0] != content}

    @rule(content=CONTENTS)
    def drop(self, content: int) -> None:
        self.rig.cache.drop(ContentId(content))
        self.pins.discard(content)
        self.forget(content)

    @rule(content=CONTENTS, force=st.booleans())
    def free(self, content: int, force: bool) -> None:
        stayed = self.rig.cache.free([ContentId(content)], force)
        assert stayed == ((content in self.pins and not force) or self.kept(content))
        if not stayed:
            self.forget(content)

    @rule()
    def drop_clean(self) -> None:
        self.rig.cache.drop_clean()
        self.known = {key: known for key, known in self.known.items() if known.kept}

    @rule(content=CONTENTS, pinned=st.booleans())
    def pin(self, content: int, pinned: bool) -> None:
        (self.rig.cache.pin if pinned else self.rig.cache.unpin)([ContentId(content)])
        (self.pins.add if pinned else self.pins.discard)(content)

    def at_rest(self) -> list[Key]:
        """Groups with pages that nobody holds: a bad file that is held would come back, unverified, after a kill."""
        groups = [(key, known.group) for key, known in self.known.items() if not known.kept]
        return sorted(key for key, group in groups if group.present and not (group.holds or group.reserved))

    @precondition(lambda self: self.at_rest())
    @rule(data=st.data(), at_once=st.booleans())
    def rot(self, data: st.DataObject, at_once: bool) -> None:
        """A byte on the disk flips; it is found and its page dropped."""
        key = data.draw(st.sampled_from(self.at_rest()))
        group = self.known[key].group
        page = data.draw(st.sampled_from(list(mask_pages(group.present))))
        self.rig.corrupt(group, page, data.draw(st.integers(0, min(2, group.length - page * PAGE - 1))))
        assert self.rig.cache.check_pages(group, group.present) == 1 << page
        good = group.present & ~(1 << page)
        self.rig.cache.drop_pages(group, 1 << page)
        del self.known[key]
        self.reconcile()
        if group.layout == LAYOUT_WHOLE:
            self.flush()  # its file may stay for another's sake, and would be found with the bad page after a kill
        if not at_once:
            return  # the copy arrives at some later step
        self.pump()
        copy = self.rig.cache.lookup(ContentId(key[0]), key[1])
        assert copy is None or copy.present == good

    def take_copies(self) -> None:
        """Copies that have come back are groups like all others; one in another tier took the place of its original."""
        for group in self.rig.cache:
            known = self.known.get(group.key)
            if known is None:
                if group.present:
                    self.known[group.key] = Known(group, group.present)
            elif known.group is not group:
                assert not known.group.alive
                assert group.present == known.present
                self.known[group.key] = Known(group, group.present)

    @rule(at_once=st.booleans())
    def tend(self, at_once: bool) -> None:
        self.rig.cache.tend()
        self.reconcile()
        if at_once:
            self.pump()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), at_once=st.booleans())
    def promote(self, data: st.DataObject, at_once: bool) -> None:
        self.rig.cache.promote(self.some(data))
        if at_once:
            self.pump()

    @rule()
    def pump(self) -> None:
        self.rig.pump()
        self.take_copies()
        self.reconcile()

    # ---- stopping -----------------------------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self.rig.cache.set_cursor(self.cursor + 1)
        self.cursor += 1
        self.rig.cache.index.flush()
        self.remember()

    def remember(self) -> None:
        groups = {group.key: (group.present, self.rig.file(group)) for group in self.rig.cache if group.present}
        kept = {key: known.present for key, known in self.known.items() if known.kept}
        self.stored = Stored(groups, kept, set(self.pins), self.cursor)

    @rule()
    def restart(self) -> None:
        self.let_go()
        self.pump()
        self.rig.reopen()
        self.found({key: known.present for key, known in self.known.items()}, exactly=True)
        for key, known in self.known.items():
            group = self.rig.cache.lookup(ContentId(key[0]), key[1])
            assert group is not None
            assert group.verified == known.verified
            known.group = group
            assert group.kept == known.kept
        self.rig.cache.set_groups(self.rules)
        self.reconcile()
        self.remember()

    @rule()
    def kill(self) -> None:
        rig = self.rig
        self.pump()
        retired = {key for key in self.stored.kept if key not in self.known or not self.known[key].kept}
        stored = self.stored.groups.items()  # the file of a retired content may be there still: somebody held it
        expected = {key: present for key, (present, path) in stored if path.exists() and key not in retired}
        self.lives += 1
        home = self.top / str(self.lives)
        shutil.copytree(rig.home, home, ignore=shutil.ignore_patterns("lock.mdb"))
        self.let_go()
        rig.cache.close()
        shutil.rmtree(rig.home)
        self.rig = self.new_rig(home)
        self.rig.open()
        for content, _ in retired:  # the feed says so again, for its cursor was not durable
            self.rig.cache.drop(ContentId(content))
        self.pins = {content for content in self.stored.pins if all(content != key[0] for key in retired)}
        self.cursor = self.stored.cursor
        sizes = [mask_bytes(LENGTHS[key[0]], present) for key, present in expected.items()]
        self.found(expected, exactly=sum(sizes) <= QUOTA // 2)
        self.known = {
            group.key: Known(group, group.present, verified=False, kept=group.kept) for group in self.rig.cache
        }
        kept = {key: known.present for key, known in self.known.items() if known.kept}
        assert kept == {key: mask for key, mask in self.stored.kept.items() if key not in retired}
        self.rig.cache.set_groups(self.rules)
        self.reconcile()
        self.rig.check()
        self.remember()

    def found(self, expected: dict[Key, int], *, exactly: bool) -> None:
        """What was unlinked late may have come back and been too much; else nothing more and nothing less."""
        found = {group.key: group.present for group in self.rig.cache}
        if exactly:
            assert found == expected
        else:
            assert found.items() <= expected.items()
        assert (self.rig.cache.pins, self.rig.cache.cursor) == (self.pins, self.cursor)

    # ---- always -------------------------------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.check(disk=False)
        for key, known in self.known.items():
            assert self.rig.cache.lookup(ContentId(key[0]), key[1]) is known.group
            assert known.group.present == known.present
        for status in self.rig.cache.status():
            assert status.used_bytes <= status.capacity_bytes


CacheMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestCacheMachine = CacheMachine.TestCase
