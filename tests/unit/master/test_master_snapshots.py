"""What a member takes of a state that is sent to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monofs.journal.raft.messages import Membership, Position
from monofs.journal.wire import encode_membership
from monofs.master.snapshots import Receiving
from monofs.metadata.copyfile import CopyHead, pack_head
from monofs.model.errors import InvalidArgument
from monofs.rpc.api import SnapshotRequest

CLUSTER = b"cluster-0123456!"


def head_of(members: bytes) -> bytes:
    return pack_head(CopyHead(2, 1, members, CLUSTER, 1, 1, 4096, bytes(32), 0, 1, b"", b"", 0, "0"))


def test_a_state_that_says_nothing_of_members_is_refused(tmp_path: Path) -> None:
    """A master that was alone may have flushed one; whoever installs it would lead a group of its own."""
    receiving = Receiving(str(tmp_path), reactor=None, cluster=lambda: CLUSTER)
    with pytest.raises(InvalidArgument, match="nothing of members"):
        receiving._take(SnapshotRequest(CLUSTER, 1, 2, -1, head_of(b"")))
    assert not receiving.is_whole(Position(2, 1))
    assert receiving._take(SnapshotRequest(CLUSTER, 1, 2, -1, head_of(encode_membership(Membership((1,)))))) == 0
