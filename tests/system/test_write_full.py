"""No room: in a tier, in a policy's quota, in the store, below the home. The error is clear, nothing half-visible stays, and with room it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_disks import Outside, fill, small_disk
from write_world import Directory, Prefix, broken, converged, disagreements, synced, until

from monofs.model.errors import (
    DiskFull,
    MonofsError,
    NotReady,
    Overloaded,
    QuotaExceeded,
    TierFull,
    UfsFull,
)
from monofs.testing.nodes import NodeFailed, ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.system
MIB = 1 << 20


def write_in_pieces(fs: Any, path: str, size: int, **options: Any) -> None:
    with fs.open(path, "wb", **options) as stream:
        for _ in range(size // MIB):
            stream.write(b"x" * MIB)


def cached_bytes(fs: Any) -> int:
    return sum(tier.used_bytes for status in fs.worker_status().values() for tier in status.tiers)


SIZES = [(3 * MIB, False), (12 * MIB, True)]
"""(bytes, whether they come in pieces whose number is not known before)"""


# ---- the store --------------------------------------------------------------------------------------------------------


def test_a_full_directory_refuses_a_write_and_shows_nothing_of_it(
    serve: Callable[..., ServedNode], tmp_path: Path
) -> None:
    node = serve()
    with small_disk(tmp_path / "disk", "16m") as disk, node.connect() as fs:
        place = Directory(str(disk / "store"))
        fs.mount_add("/full", place.uri, {})
        fs.write("/full/kept", b"k" * MIB)
        filler = fill(disk)
        for path in ("/full/new", "/full/kept", "/full/d/new"):
            with pytest.raises(UfsFull):
                fs.write(path, b"n" * 3 * MIB)
            with pytest.raises(UfsFull):
                write_in_pieces(fs, path, 12 * MIB)
        converged(fs)
        assert set(place.files()) == {"kept"}
        assert not place.leftovers()
        assert fs.read("/full/kept") == b"k" * MIB
        assert not fs.exists("/full/new")
        filler.unlink()
        fs.write("/full/new", b"n" * 3 * MIB)
        write_in_pieces(fs, "/full/d/new", 9 * MIB)
        synced(fs, "/full")
        assert not disagreements(fs, "/full", place)
        assert not broken(fs)
        fs.mount_remove("/full")


@pytest.mark.ceph
@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_a_full_s3_store_refuses_a_write_and_shows_nothing_of_it(
    serve: Callable[..., ServedNode], ceph: Any, bucket: Any, status: int, code: str
) -> None:
    node = serve()
    place = Prefix(bucket, "p")
    with StoreProxy(ceph.endpoint) as proxy, node.connect() as fs:
        bucket.endpoint = proxy.endpoint
        fs.mount_add("/full", place.uri, place.options)
        fs.write("/full/kept", b"kept")
        proxy.add(Fault(kind="put", status=status, code=code))
        for path in ("/full/new", "/full/kept", "/full/d/new"):
            with pytest.raises(UfsFull):
                fs.write(path, b"n" * MIB)
            with pytest.raises(UfsFull):
                write_in_pieces(fs, path, 12 * MIB)
        converged(fs)
        assert place.files() == {"kept": b"kept"}
        assert not place.leftovers()
        assert fs.read("/full/kept") == b"kept"
        assert not fs.exists("/full/new")
        proxy.clear()
        fs.write("/full/new", b"n")
        write_in_pieces(fs, "/full/d/new", 12 * MIB)
        synced(fs, "/full")
        assert not disagreements(fs, "/full", place)
        fs.mount_remove("/full")


# ---- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mounted", [True, False])
def test_a_full_tier_refuses_what_only_it_would_hold_and_passes_on_what_the_store_holds(
    serve: Callable[..., ServedNode], tmp_path: Path, mounted: bool
) -> None:
    with small_disk(tmp_path / "tier", "16m") as disk:
        node = serve(f'worker.tiers=[{{"name":"T","dir":"{disk}","quota":"100%","durable":true}}]')
        with node.connect() as fs:
            place = Directory(str(tmp_path / "store"))
            fs.mount_add("/m", place.uri, {})
            fs.make_directory("/plain")
            top = "/m" if mounted else "/plain"
            filler = fill(disk)
            for size, in_pieces in SIZES:
                with pytest.raises(TierFull):
                    if in_pieces:
                        write_in_pieces(fs, f"{top}/new", size, write_type="MUST_CACHE")
                    else:
                        fs.write(f"{top}/new", b"x" * size, write_type="MUST_CACHE")
            assert list(fs.names(top)) == []
            fs.write("/m/through", b"t" * 3 * MIB)
            write_in_pieces(fs, "/m/parts", 12 * MIB)
            assert fs.read("/m/through") == b"t" * 3 * MIB
            assert fs.read("/m/parts") == b"x" * 12 * MIB
            filler.unlink()

            def written() -> bool:
                try:
                    fs.write(f"{top}/new", b"y" * 3 * MIB, write_type="MUST_CACHE")
                except TierFull:
                    return False
                return True

            until(written, "the room to be used again")
            assert fs.read(f"{top}/new") == b"y" * 3 * MIB
            converged(fs)
            assert not disagreements(fs, "/m", place)
            assert not broken(fs)
        node.stop()


def test_a_quota_reached_in_the_middle_of_a_write_leaves_nothing(serve: Callable[..., ServedNode]) -> None:
    node = serve()
    with node.connect() as fs:
        fs.make_directory("/q")
        fs.set_policy("/q", quota_bytes=8 * MIB)
        fs.write("/q/kept", b"k" * 3 * MIB)
        before = cached_bytes(fs)
        for size, in_pieces in [(6 * MIB, False), (12 * MIB, True), (30 * MIB, True)]:
            for path in ("/q/new", "/q/kept"):
                with pytest.raises(QuotaExceeded):
                    if in_pieces:
                        write_in_pieces(fs, path, size)
                    else:
                        fs.write(path, b"x" * size)
        assert list(fs.names("/q")) == ["kept"]
        with node.connect() as reader:  # whose descriptors go with it
            assert reader.read("/q/kept") == b"k" * 3 * MIB
        until(lambda: cached_bytes(fs) == before, "what was written in vain to be dropped")
        fs.write("/q/small", b"s" * 2 * MIB)
        fs.delete("/q/kept")
        until(lambda: cached_bytes(fs) <= 2 * MIB, "the deleted file's pages to be dropped")
        write_in_pieces(fs, "/q/new", 6 * MIB)
        assert fs.read("/q/new") == b"x" * 6 * MIB
        fs.write("/beside", b"b" * 12 * MIB)
        fs.set_policy("/q", quota_bytes=32 * MIB)
        until(lambda: not isinstance(_try(fs, "/q/more", 20 * MIB), MonofsError), "the new quota to be known")
        converged(fs)
        assert not broken(fs)


def _try(fs: Any, path: str, size: int) -> MonofsError | None:
    try:
        fs.write(path, b"m" * size)
    except QuotaExceeded as error:
        return error
    return None


def test_a_quota_of_a_path_below_a_mount_bounds_the_cache_and_not_the_store(
    serve: Callable[..., ServedNode], tmp_path: Path
) -> None:
    node = serve()
    place = Directory(str(tmp_path / "store"))
    with node.connect() as fs:
        fs.mount_add("/m", place.uri, {})
        fs.set_policy("/m", quota_bytes=4 * MIB)
        for number in range(4):
            write_in_pieces(fs, f"/m/f{number}", 3 * MIB)
        with pytest.raises(QuotaExceeded):
            fs.write("/m/only", b"o" * 6 * MIB, write_type="MUST_CACHE")
        fs.write("/m/only", b"o" * 2 * MIB, write_type="MUST_CACHE")
        assert all(fs.read(f"/m/f{number}") == b"x" * 3 * MIB for number in range(4))
        assert fs.read("/m/only") == b"o" * 2 * MIB
        until(lambda: cached_bytes(fs) <= 4 * MIB, "the cache to keep to its quota")
        assert not disagreements(fs, "/m", place)


# ---- the home ---------------------------------------------------------------------------------------------------------


def test_a_home_without_room_refuses_or_stops_and_loses_nothing_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        sets = ["journal.segment_bytes=262144", "journal.retain_bytes=1048576", "worker.quota=2MiB"]
        node = Outside(str(disk / "home"), sets=sets)
        place = Directory(str(tmp_path / "store"))
        acknowledged: dict[str, bytes] = {}
        try:
            node.start()
            with node.connect(timeout_s=5) as fs:
                fs.mount_add("/m", place.uri, {})
                filler = fill(disk)
                error: MonofsError | None = None
                for number in range(3000):
                    name = f"{number:0200}"
                    try:
                        fs.write(f"/m/{name}", b"%d" % number, write_type="THROUGH")
                    except MonofsError as raised:
                        error = raised
                        break
                    acknowledged[name] = b"%d" % number
                assert error is not None
                if node.process is not None and not node._wait(3.0):
                    assert isinstance(error, DiskFull | Overloaded | NotReady), error
            assert "Traceback" not in node.output()
            filler.unlink()
            if node.process is not None and node.process.poll() is not None:
                assert "stopped to protect data" in node.output()
                node.start()
            with node.connect() as fs:
                converged(fs)
                files = place.files()
                assert {name: files.get(name) for name in acknowledged} == acknowledged
                assert len(files) <= len(acknowledged) + 1
                assert {info.name for info in fs.list("/m")} >= acknowledged.keys()
                synced(fs, "/m")
                assert not disagreements(fs, "/m", place)
                fs.write("/m/after", b"after")
                assert not broken(fs)
        except NodeFailed as failed:
            raise AssertionError(f"did not start again with room: {failed}") from None
        finally:
            node.kill()
