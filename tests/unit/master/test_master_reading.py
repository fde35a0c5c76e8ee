"""What a reader of the namespace sees: lazy loading, freshness, absence, batches."""

from __future__ import annotations

from pathlib import Path

from master_house import House

from monofs.model.inode import Kind


def test_a_path_is_loaded_when_it_is_first_asked_for(house: House, data: Path) -> None:
    (data / "a" / "b").mkdir(parents=True)
    (data / "a" / "b" / "f").write_bytes(b"hello")
    house.mount("/lake", data)
    house.asked()
    inode = house.stat("/lake/a/b/f")
    assert (inode.kind, inode.size) == (Kind.FILE, 5)
    assert house.asked() == ["head"]
    assert house.stat("/lake/a/b/f") == inode
    assert house.asked() == []
    assert house.list("/lake/a/b") == ["f"]
    assert house.stat("/lake/a/b/f").content == inode.content
    assert house.asked() == ["list"]
