"""BUCKET_SET and BUCKET_LIST: paths that are buckets under a name of their own, besides the directories at the top, which are buckets anyway.

The S3 doors hear of them with the heartbeat, as they do of keys (tokens.py). A path that is gone later is a bucket that holds nothing.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.auditing import audited
from monofs.master.proposing import Proposer
from monofs.master.reading import Reading
from monofs.master.tokens import check_s3_level, token_grant
from monofs.metadata.entries import SetBucket
from monofs.metadata.namespace import Namespace
from monofs.model.errors import NotADirectory
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right
from monofs.rpc.api import BucketListAnswer, BucketSetRequest, Empty
from monofs.rpc.service import Call


class Buckets:
    """Handlers of one master."""

    def __init__(self, namespace: Namespace, proposer: Proposer, reading: Reading) -> None:
        self._namespace, self._proposer, self._reading = namespace, proposer, reading

    def set(self, request: BucketSetRequest, call: Call) -> Deferred[Empty]:
        """Make a directory a bucket, or take the name back. ``NotFound``, ``NotADirectory``, ``AlreadyExists``."""
        return audited(call, "s3 bucket", request.name, request.path).around(self._set(request, call))

    async def _set(self, request: BucketSetRequest, call: Call) -> Empty:
        check_access(call.principal, Right.ADMIN)
        check_s3_level(self._namespace)
        if request.path:
            parts = parse_path(request.path)
            found = await self._reading.known(parts)
            if found.inode is None:
                raise self._reading.absence(parts, found, call)
            if not found.inode.is_directory:
                raise NotADirectory(f"{format_path(parts)} is no directory", path=format_path(parts))
        stamp = self._proposer.stamp(request.request)
        await self._proposer.propose(SetBucket(stamp, request.name, request.path, call.principal.name))
        return Empty()

    def list(self, _: Empty, call: Call) -> BucketListAnswer:
        """All that were given a path, by name."""
        check_access(call.principal, Right.READ)
        return BucketListAnswer(token_grant(self._namespace).buckets)
