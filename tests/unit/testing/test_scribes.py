"""Clients that write bytes notice when others come back."""

from __future__ import annotations

from monofs.testing.scribes import Scribe
from monofs.testing.workload import Record


def test_a_scribe_notices_bytes_that_changed_or_went(node, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    with node.connect() as fs:
        fs.mount_add("/scribes", f"file://{store}")
        scribe = Scribe(1, node.connect, Record(), "seed")
        scribe.home, scribe.store, scribe._fs = "/scribes/home", store / "home", fs
        while len(scribe.may_hold) < 3:
            scribe.step()
        assert (scribe.record.wrongs, scribe.missing(fs)) == ([], [])
        gone, other, kept = sorted(scribe.may_hold)
        (scribe.store / gone).unlink()
        (scribe.store / other).write_bytes((scribe.store / kept).read_bytes())
        told = [line for line in scribe.missing(fs) if line.endswith("in the store, not what was written")]
        assert [line.split()[0] for line in told] == [
            f"/scribes/home/{name}" for name in scribe.may_hold if name != kept
        ]
        scribe.may_hold[kept] = {0}
        assert any("reads as" in line for line in scribe.missing(fs))
        fs.mount_remove("/scribes")
