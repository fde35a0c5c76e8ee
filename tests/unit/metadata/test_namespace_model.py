"""Random writing over a model of an object store: acts that end late or never, listings that come late, jobs that take their time, changes
from outside, crashes. At the end the tree is the store, and what was acknowledged is in both."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from metadata_home import Home, file, refused

from monofs.metadata.entries import AdoptPage, AdoptPath, Found, Moved, MovedFile, RemoveBelow, UpdateJob
from monofs.metadata.intent_entries import Abandon
from monofs.metadata.tables import Intent, IntentKind, Job, JobKind, JobState
from monofs.model.errors import MonofsError, UfsChanged
from monofs.model.inode import Flag, Inode, decode_inode
from monofs.model.paths import format_path, parse_path

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/m/" + "/".join(names))


class Lake:
    """An object store: key to (version, origin). Every version is new; ``origin`` tells whose bytes they are."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, str]] = {}
        self._versions = itertools.count(1)

    def put(self, key: str, origin: str) -> str:
        self.objects[key] = f"e:{next(self._versions)}", origin
        return self.objects[key][0]

    def version(self, key: str) -> str:
        return self.objects[key][0] if key in self.objects else ""

    def found(self, key: str) -> Found | None:
        name = key.rpartition("/")[2]
        return file(name, self.version(key)[2:]) if key in self.objects else None

    def is_prefix(self, key: str) -> bool:
        return any(each.startswith(key + "/") for each in self.objects)

    def list(self, key: str) -> list[Found]:
        """One page with everything right below a prefix."""
        prefix = key + "/" if key else ""
        found: dict[bytes, Found] = {}
        for each in self.objects:
            if each.startswith(prefix) and each != prefix:
                name, slash, _ = each[len(prefix) :].partition("/")
                shown = Found(name.encode(), is_directory=True) if slash else self.found(each)
                assert shown is not None
                found[name.encode() + slash.encode()] = shown
        return [found[key] for key in sorted(found)]


class Writers(RuleBasedStateMachine):
    """``expected``: path to the origin of its bytes, for what was acknowledged; ``touched``: paths changed from outside, of which only
    tree and store can tell."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.home = Home(Path(self.place.name) / "one", flush_changes=60)
        self.home.initialize()
        self.home.mount("/m")
        self.lake = Lake()
        for key in ("a/a", "a/b/c", "a/c", "b/a/b", "b/c", "c"):
            self.lake.put(key, key)
        self.origins = (f"o{n}" for n in itertools.count(1))
        self.writing: dict[int, str] = {}
        self.acted: dict[int, Found | None] = {}
        self.pages: list[AdoptPage | AdoptPath] = []
        self.removed: dict[int, dict[str, str]] = {}
        self.expected = {"/m/" + key: key for key in self.lake.objects}
        self.touched: set[str] = set()
        self.sync("/m")

    def teardown(self) -> None:
        if not hasattr(self, "place"):
            return
        try:
            self.converge()
            self.the_tree_is_the_store()
            other = Home(Path(self.place.name) / "two")
            for index, entry in enumerate(self.home.log, 1):
                other.namespace.apply(index, 1, entry)
            assert other.namespace.crc == self.home.namespace.crc
            assert other.tree() == self.home.tree()
            other.close()
        finally:
            self.home.close()
            self.place.cleanup()

    def draw(self, data: st.DataObject, *, directories: bool) -> str:
        """A path of a file (a directory) there is; any other where there is none."""
        tree = [path.rstrip("/") for path in self.home.tree() if path.startswith("/m/") and path != "/m/"]
        there = [path for path in tree if self.home.inode(path).is_directory == directories]
        return data.draw(st.sampled_from(sorted(there)) if there else PATHS)

    # ---- intents ----------------------------------------------------------------------------------------------------

    def opened(self, result: Any) -> None:
        if isinstance(result, Intent):
            self.writing[result.number] = next(self.origins)

    @rule(path=PATHS, at_once=st.booleans())
    def write(self, path: str, at_once: bool) -> None:
        job = self.home.namespace.covering_job(1, path[3:])
        if job is not None and job.kind == JobKind.DELETE and not self.home.namespace.lock_at(parse_path(path)):
            self.make_room(job, path[3:])
        intent = self.home.begin_write(path)
        self.opened(intent)
        if at_once and isinstance(intent, Intent):
            self.act(intent)
            self.end(intent)

    @rule(data=st.data(), directories=st.booleans())
    def delete(self, data: st.DataObject, directories: bool) -> None:
        self.opened(self.home.begin_delete(self.draw(data, directories=directories)))

    @rule(data=st.data(), onto=PATHS)
    def rename(self, data: st.DataObject, onto: str) -> None:
        source = self.draw(data, directories=False)
        inode = self.home.namespace.lookup(parse_path(source)).inode
        if inode is not None and not inode.is_directory and source != onto:
            self.opened(self.home.begin_rename(source, onto))

    @rule(data=st.data(), onto=PATHS)
    def copy(self, data: st.DataObject, onto: str) -> None:
        self.opened(self.home.begin_copy(self.draw(data, directories=False), onto, parents=True))

    @rule(path=PATHS)
    def make_directory(self, path: str) -> None:
        self.opened(self.home.begin_mkdir(path, parents=True))

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def act_on_the_store(self, data: st.DataObject) -> None:
        waiting = [number for number in self.writing if number not in self.acted]
        if waiting:
            self.act(self.intent(data.draw(st.sampled_from(waiting))))

    @precondition(lambda self: self.acted)
    @rule(data=st.data())
    def end_an_act(self, data: st.DataObject) -> None:
        self.end(self.intent(data.draw(st.sampled_from(sorted(self.acted)))))

    def intent(self, number: int) -> Intent:
        intent = self.home.namespace.intent(number)
        assert intent is not None
        return intent

    def act(self, intent: Intent) -> None:
        """What the store makes of it; one that is not what was recorded abandons it, and is looked at."""
        found = self.done(intent)
        if not isinstance(found, UfsChanged):
            self.acted[intent.number] = found
        else:
            abandoned = self.home.apply(Abandon(self.home.stamp(), intent.number, found.code, "changed"))
            assert refused(abandoned, UfsChanged)
            del self.writing[intent.number]
            for path in filter(None, (intent.path, intent.target)):
                self.look(path)

    def done(self, intent: Intent) -> Found | UfsChanged | None:
        lake, key, target = self.lake, intent.key, intent.target_key
        is_as_recorded = lake.version(key) == intent.replaced and lake.version(target) == intent.target_replaced
        match intent.kind:
            case IntentKind.WRITE:
                if not is_as_recorded:
                    return UfsChanged()
                lake.put(key, self.writing[intent.number])
                return lake.found(key)
            case IntentKind.MAKE_DIRECTORY:
                lake.put(key + "/", "")
                return Found(key.rpartition("/")[2].encode(), is_directory=True)
            case IntentKind.DELETE if intent.directory:
                if any(each.startswith(key + "/") and each != key + "/" for each in lake.objects):
                    return UfsChanged()
                lake.objects.pop(key + "/", None)
                return None
            case IntentKind.DELETE:
                if key in lake.objects and not is_as_recorded:
                    return UfsChanged()
                lake.objects.pop(key, None)
                return None
            case _:
                if not is_as_recorded:
                    return UfsChanged()
                origin = self.writing[intent.number] = lake.objects[key][1]
                lake.put(target, origin)
                if intent.kind == IntentKind.RENAME:
                    del lake.objects[key]
                return lake.found(target)

    def end(self, intent: Intent) -> None:
        if intent.number not in self.acted:
            return
        found = self.acted.pop(intent.number)
        result = self.home.end(intent, found)
        assert not isinstance(result, MonofsError), result
        origin = self.writing.pop(intent.number)
        if intent.kind in (IntentKind.DELETE, IntentKind.RENAME) and not intent.directory:
            self.expected.pop(intent.path, None)
        if found is not None and not found.is_directory:
            made, key = (intent.target, intent.target_key) if intent.target else (intent.path, intent.key)
            if self.lake.version(key) == found.fingerprint:  # else it was changed from outside since
                self.expected[made] = origin

    # ---- trees ------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def remove_tree(self, data: st.DataObject) -> None:
        path = self.draw(data, directories=True)
        number = self.home.remove_tree(path)
        if isinstance(number, MonofsError):
            return
        job = self.job(number)
        self.removed[number] = {key: it[0] for key, it in self.lake.objects.items() if key.startswith(job.key + "/")}
        for each in [each for each in self.expected if each.startswith(path + "/")]:
            del self.expected[each]

    @rule(data=st.data(), name=st.sampled_from(["a", "d", "e", "f"]), deep=st.booleans())
    def rename_tree(self, data: st.DataObject, name: str, deep: bool) -> None:
        source = self.draw(data, directories=True)
        onto = f"{self.draw(data, directories=True)}/{name}" if deep else f"/m/{name}"
        result = self.home.rename_tree(source, onto)
        if isinstance(result, MonofsError) or source == onto:
            return
        for each in [each for each in self.expected if each.startswith(source + "/")]:
            self.expected[onto + each[len(source) :]] = self.expected.pop(each)
        self.touched |= {onto + each[len(source) :] for each in self.touched if each.startswith(source + "/")}

    def job(self, number: int) -> Job:
        job = self.home.namespace.job(number)
        assert job is not None
        return job

    @precondition(lambda self: self.home.namespace.open_tree_jobs())
    @rule(data=st.data(), steps=st.integers(1, 4))
    def work_at_a_job(self, data: st.DataObject, steps: int) -> None:
        job = data.draw(st.sampled_from(self.home.namespace.open_tree_jobs()))
        for _ in range(steps):
            if self.job(job.number).state == JobState.RUNNING:
                self.step(self.job(job.number))

    def step(self, job: Job) -> None:
        if job.kind == JobKind.DELETE:
            self.delete_one(job)
        elif job.doomed:
            for key in job.doomed:
                self.lake.objects.pop(key, None)
            self.home.apply(UpdateJob(self.home.stamp(), job.number, doomed=[]))
        elif not self.move_one(job):
            self.finish_moving(job)

    def delete_one(self, job: Job) -> None:
        """One object goes that the tree knew. What is being changed is looked at again: the change may come to nothing."""
        known = self.removed[job.number]
        for key in sorted(known):
            if not self.home.namespace.lock_at(parse_path("/m/" + key)):
                self.make_room(job, key)
                return
        if not known:
            self.home.update_job(job.number, state=JobState.DONE)

    def make_room(self, job: Job, key: str) -> None:
        version = self.removed[job.number].pop(key, "")
        if not self.has(key) and self.lake.version(key) == version:
            self.lake.objects.pop(key, None)

    def has(self, key: str) -> bool:
        """Whether the tree has the file, or with a trailing slash the directory, of this natural key."""
        *between, name = parse_path("/m/" + key)
        parent = self.home.namespace.lookup(tuple(between)).inode
        if parent is None or not parent.is_directory:
            return False
        slash = b"/" if key.endswith("/") else b""
        return self.home.namespace.get_inode(parent.id, name + slash) is not None

    def moving(self, job: Job) -> list[tuple[str, int, bytes, Inode]]:
        """(path, parent, name, record) of everything in a directory that is being moved."""
        place = self.home.namespace.path_of(job.directory)
        assert place is not None
        found: list[tuple[str, int, bytes, Inode]] = []
        pending = [(format_path(place), job.directory)]
        while pending:
            path, number = pending.pop()
            for key, raw in self.home.namespace.children(number, b"", 1000):
                inode, name = decode_inode(raw), key.rstrip(b"/")
                found.append((f"{path}/{name.decode()}", number, name, inode))
                if inode.is_directory:
                    pending.append((found[-1][0], inode.id))
        return found

    def move_one(self, job: Job) -> bool:
        for path, parent, name, inode in self.moving(job):
            if inode.is_directory or self.home.namespace.open_intents.is_touched(path):
                continue
            holder = self.home.namespace.path_of(parent)
            assert holder is not None
            above = self.home.key(format_path(holder))
            old, new = inode.store_path or f"{above}/{name.decode()}", self.home.natural(path)
            if old == new or self.lake.version(old) != inode.fingerprint:
                continue
            self.lake.put(new, self.lake.objects[old][1])
            moved = MovedFile(parent, name, inode.content, old, new, self.lake.version(new), 10**18)
            assert self.home.apply(Moved(self.home.stamp(), job.number, [moved])) == (0,)
            return True
        return False

    def finish_moving(self, job: Job) -> None:
        """Everything was moved that is as it was recorded: look once more at what is not, and end if there is nothing."""
        self.sync(job.target)
        for path, _, _, inode in self.moving(job):
            if self.home.namespace.open_intents.is_touched(path):
                return
            if (
                not inode.is_directory
                and inode.store_path is None
                and not self.home.key(path).startswith(self.home.natural(job.target) + "/")
            ):
                return
            if inode.store_path is not None and inode.store_path != self.home.natural(path):
                return
        if self.home.namespace.locked_below(parse_path(job.target)):
            return
        for key in [key for key in self.lake.objects if key.endswith("/") and key.startswith(job.key + "/")]:
            if not self.has(key) and not self.home.namespace.lock_at(parse_path("/m/" + key)):
                del self.lake.objects[key]
                self.lake.put(self.home.natural(job.target) + key[len(job.key) :], "")
        assert self.home.finish_move(job.number) == ()

    # ---- the store shows -----------------------------------------------------------------------------------------------

    def asked(self, path: str) -> AdoptPage | AdoptPath:
        """What the store shows of a path now, to be taken over now or later."""
        found = self.home.namespace.lookup(parse_path(path))
        stamp, now = self.home.stamp(), len(self.home.log)
        assert found.located is not None
        key, mount = found.located.key, found.located.mount.id
        if found.inode is not None and found.inode.is_directory:
            return AdoptPage(stamp, found.inode.id, mount, now, b"", None, self.lake.list(key), True, key)
        name = path.rpartition("/")[2].encode()
        directory = Found(name, is_directory=True) if self.lake.is_prefix(key) else None
        return AdoptPath(stamp, path, mount, now, self.lake.found(key), directory, key)

    def look(self, path: str) -> None:
        self.home.apply(self.asked(path))

    @rule(path=st.one_of(PATHS, st.just("/m")))
    def ask_the_store(self, path: str) -> None:
        self.pages.append(self.asked(path))

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def take_over_what_it_showed(self, data: st.DataObject) -> None:
        self.home.apply(self.pages.pop(data.draw(st.integers(0, len(self.pages) - 1))))

    @rule(path=st.one_of(PATHS, st.just("/m")))
    def sync(self, path: str) -> None:
        inode = self.home.namespace.lookup(parse_path(path)).inode
        self.look(path)
        if inode is not None and inode.is_directory:
            for key, raw in self.home.namespace.children(inode.id, b"", 1000):
                if decode_inode(raw).is_directory:
                    self.sync(f"{path}/{key[:-1].decode()}")

    # ---- the world --------------------------------------------------------------------------------------------------

    @rule(path=PATHS, put=st.booleans())
    def change_from_outside(self, path: str, put: bool) -> None:
        key = path[3:]
        if put:
            self.lake.put(key, "outside")
        else:
            self.lake.objects.pop(key, None)
        pending = {path}
        while pending:
            at = pending.pop()
            self.touched.add(at)
            self.expected.pop(at, None)
            for job in self.home.namespace.open_tree_jobs():  # what lies there may be what was renamed
                if job.kind == JobKind.MOVE:
                    for old, new in ((job.path, job.target), (job.target, job.path)):
                        image = new + at[len(old) :]
                        if at.startswith(old + "/") and image not in self.touched:
                            pending.add(image)

    @rule(limit=st.integers(1, 3))
    def remove_below(self, limit: int) -> None:
        self.home.apply(RemoveBelow(self.home.stamp(), limit))

    @rule()
    def flush(self) -> None:
        self.home.flush()

    @rule()
    def crash(self) -> None:
        self.home.lose_memory()
        self.home.open()

    # ---- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_namespace_is_sound(self) -> None:
        if hasattr(self, "home"):
            assert self.home.findings() == {}

    def converge(self) -> None:
        """Every act ends, every job is done, every late page arrives; then the store is asked about everything."""
        for number in list(self.writing):
            intent = self.intent(number)
            if number not in self.acted:
                self.act(intent)
            self.end(intent)
        for _ in range(200):
            jobs = self.home.namespace.open_tree_jobs()
            if not jobs:
                break
            self.step(jobs[0])
        assert self.home.namespace.open_tree_jobs() == []
        for page in self.pages:
            self.home.apply(page)
        for _ in range(2):
            self.sync("/m")
        while self.home.apply(RemoveBelow(self.home.stamp(), 100)):
            pass

    def the_tree_is_the_store(self) -> None:
        tree = {path[3:]: inode for path, inode in self.home.tree().items() if path.startswith("/m/") and path != "/m/"}
        files = {path: inode.fingerprint for path, inode in tree.items() if not inode.is_directory}
        stored = {key: version for key, (version, _) in self.lake.objects.items() if not key.endswith("/")}
        assert files == stored
        for path, inode in tree.items():
            assert inode.store_path in (None, path.rstrip("/"))
            assert self.home.key("/m/" + path) == path.rstrip("/") or path + "/" in tree
            if inode.is_directory and not inode.flags & Flag.EXPLICIT:
                assert self.lake.is_prefix(path.rstrip("/")), path
        for path, origin in self.expected.items():
            assert self.lake.objects[path[3:]][1] == origin, path
        assert {"/m/" + path for path in files} <= self.expected.keys() | self.touched
        assert self.home.namespace.intents(0, 10) == []
        assert self.home.findings() == {}


Writers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWriters = Writers.TestCase
