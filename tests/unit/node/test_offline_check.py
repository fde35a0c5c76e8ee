"""Checking the home of a stopped node leaves it as it was."""

import os

from monofs.model.ids import ContentId, MountId
from monofs.node.home import open_home
from monofs.node.offline import check_home
from monofs.tiering.cache import Cache
from monofs.tiering.spec import TierSpec

MIB = 1 << 20


def filled(home: str, directories: list[str], contents: range) -> list[int]:
    """The contents cached in a home, after ``contents`` of one page each were added."""
    tiers = [TierSpec("DISK", directory, 100 * MIB) for directory in directories]
    cache = Cache(os.path.join(home, "worker", "index"), tiers, reserve=0.0, call_soon=lambda act: act())
    cache.open()
    for content in contents:
        group = cache.admit(ContentId(content), 0, MIB, MountId(1), 0)
        cache.reserve(group, 1)
        cache.commit(group, [(0, cache.write_page(group, 0, memoryview(bytes(MIB))))])
    held = sorted(group.content for group in cache)
    cache.close()
    return held


def test_a_check_keeps_all_pages_whatever_tiers_and_quotas_the_node_was_given(tmp_path):
    home = str(tmp_path / "home")
    open_home(home, software="1", now_ns=1).close()
    tiers = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert filled(home, tiers, range(1, 9)) == list(range(1, 9))
    assert not any(check_home(home, pages=True).values())
    assert filled(home, tiers, range(0)) == list(range(1, 9))


def test_a_check_finds_the_pages_of_a_home_that_was_moved(tmp_path):
    home = str(tmp_path / "home")
    open_home(home, software="1", now_ns=1).close()
    filled(home, [os.path.join(home, "worker", "pages")], range(1, 4))
    os.rename(home, tmp_path / "moved")
    moved = str(tmp_path / "moved")
    assert not any(check_home(moved, pages=True).values())
    assert filled(moved, [os.path.join(moved, "worker", "pages")], range(0)) == [1, 2, 3]
    assert not os.path.exists(home)
