"""Every expected failure, one class each, with a stable code that travels over the wire.

Families: 1xxx common, 2xxx rpc, 3xxx namespace, 4xxx tiering and worker, 5xxx journal, 6xxx under storage, 7xxx client.
A class says whether trying again can help (``retry``), which errno a POSIX door shows (``errno``) and what to do (``hint``).
A broken invariant is not an expected failure: :func:`invariant` raises :class:`InvariantBroken`, which stops the node.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar, Never


class MonofsError(Exception):
    """Base of all expected failures.

    ``str(error)`` is one sentence a user can act on, with the request id if there is one; ``message`` is without. ``detail`` carries small machine-readable values (str, int, None)
    that cross the wire with the code, such as ``path``, ``leader`` or ``trace``. Never put a secret in either.
    """

    code: ClassVar[int] = 1000
    errno: ClassVar[int] = _errno.EIO
    retry: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init__(self, message: str = "", **detail: str | int | None) -> None:
        self.message = message or (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        self.detail: dict[str, str | int | None] = detail
        super().__init__(self.message)

    def __str__(self) -> str:
        trace = self.detail.get("trace")
        return self.message if trace is None else f"{self.message} (request id {trace})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.code, self.message, self.detail))


# ---- 1xxx common ------------------------------------------------------------------------------------------------------


class InvalidArgument(MonofsError):
    """A value given is not acceptable."""

    code = 1001
    errno = _errno.EINVAL


class Internal(MonofsError):
    """Something failed that should not have."""

    code = 1002
    errno = _errno.EIO
    hint = "this is a bug: please report it with the request id and the node's log"


class DeadlineExceeded(MonofsError):
    """The time allowed ran out before the answer came."""

    code = 1003
    errno = _errno.ETIMEDOUT
    retry = True


class Overloaded(MonofsError):
    """A bounded queue is full; try again shortly."""

    code = 1004
    errno = _errno.EAGAIN
    retry = True


class ConfigError(MonofsError):
    """A setting is unknown, malformed or contradicts another."""

    code = 1005
    errno = _errno.EINVAL


class HomeInUse(MonofsError):
    """Another process serves this home directory."""

    code = 1006
    errno = _errno.EBUSY


class HomeUnusable(MonofsError):
    """The home directory cannot be used: newer format, not writable, or damaged."""

    code = 1007
    errno = _errno.EINVAL


class NotSupported(MonofsError):
    """This operation is not available here."""

    code = 1008
    errno = _errno.ENOTSUP


class NotReady(MonofsError):
    """The node is starting or stopping."""

    code = 1009
    errno = _errno.EAGAIN
    retry = True


class DiskFull(MonofsError):
    """The disk below the home has no room."""

    code = 1010
    errno = _errno.ENOSPC


# ---- 2xxx rpc ---------------------------------------------------------------------------------------------------------


class ProtocolError(MonofsError):
    """The peer sent bytes that are not this protocol."""

    code = 2001
    errno = _errno.EPROTO


class FrameTooLarge(MonofsError):
    """A frame is larger than this listener accepts."""

    code = 2002
    errno = _errno.EMSGSIZE


class VersionMismatch(MonofsError):
    """The two sides speak no common protocol version."""

    code = 2003
    errno = _errno.EPROTO
    hint = "install the same monofs release on both sides"


class Unauthenticated(MonofsError):
    """The credential was missing or wrong."""

    code = 2004
    errno = _errno.EACCES
    hint = "give the cluster's secret with --cluster-secret-file or MONOFS_SECURITY_CLUSTER_SECRET_FILE"


class UnknownMethod(MonofsError):
    """The server does not know this method."""

    code = 2005
    errno = _errno.ENOSYS


class ConnectionLost(MonofsError):
    """The connection broke before the answer came; a change may or may not have happened."""

    code = 2006
    errno = _errno.ECONNRESET
    retry = True


class Unreachable(MonofsError):
    """No connection could be made."""

    code = 2007
    errno = _errno.ECONNREFUSED
    retry = True


# ---- 3xxx namespace ---------------------------------------------------------------------------------------------------


class NotFound(MonofsError):
    """No such file or directory."""

    code = 3001
    errno = _errno.ENOENT


class AlreadyExists(MonofsError):
    """The path exists already."""

    code = 3002
    errno = _errno.EEXIST


class NotADirectory(MonofsError):
    """A component of the path is not a directory."""

    code = 3003
    errno = _errno.ENOTDIR


class IsADirectory(MonofsError):
    """The path is a directory."""

    code = 3004
    errno = _errno.EISDIR


class NotEmpty(MonofsError):
    """The directory is not empty."""

    code = 3005
    errno = _errno.ENOTEMPTY


class PermissionDenied(MonofsError):
    """The principal may not do this."""

    code = 3006
    errno = _errno.EACCES


class ReadOnly(MonofsError):
    """The mount or file system is read-only."""

    code = 3007
    errno = _errno.EROFS


class CrossMount(MonofsError):
    """Source and target lie on different mounts."""

    code = 3008
    errno = _errno.EXDEV


class InvalidPath(MonofsError):
    """The path is malformed."""

    code = 3009
    errno = _errno.EINVAL


class NameTooLong(MonofsError):
    """A name is over 255 bytes or the path over 4,096."""

    code = 3010
    errno = _errno.ENAMETOOLONG


class Busy(MonofsError):
    """Another change of this path is in progress."""

    code = 3011
    errno = _errno.EBUSY
    retry = True


class MountExists(MonofsError):
    """Something is mounted at this path already."""

    code = 3012
    errno = _errno.EEXIST


class MountNotFound(MonofsError):
    """Nothing is mounted at this path."""

    code = 3013
    errno = _errno.ENOENT


class SessionExpired(MonofsError):
    """The client was silent for too long; its earlier requests are unknown here."""

    code = 3014
    errno = _errno.ESTALE


class ConditionFailed(MonofsError):
    """The state is not the one the caller expected."""

    code = 3015
    errno = _errno.EAGAIN


class QuotaExceeded(MonofsError):
    """The quota of this path has no room left."""

    code = 3016
    errno = _errno.EDQUOT


class WouldLose(MonofsError):
    """What would go is nowhere else."""

    code = 3017
    errno = _errno.ENOTEMPTY


class MountPoint(MonofsError):
    """The path is a mount point or the root, or holds a mount point."""

    code = 3018
    errno = _errno.EBUSY


class CopyDamaged(MonofsError):
    """A backup is damaged or cut short."""

    code = 3019
    errno = _errno.EIO
    hint = "use another backup: nothing of this one was taken over"


class WorkersUsedUp(MonofsError):
    """The cluster has no number left for another worker: each home of one has had its own, for ever."""

    code = 3020
    errno = _errno.ENOSPC
    hint = "start it with the `worker/identity` of a worker that is gone for good in its home: it takes over that worker's number"


# ---- 4xxx tiering and worker ------------------------------------------------------------------------------------------


class TierFull(MonofsError):
    """No storage directory has room."""

    code = 4001
    errno = _errno.ENOSPC


class TierUnusable(MonofsError):
    """A storage directory is read-only or failing."""

    code = 4002
    errno = _errno.EROFS


class PageCorrupt(MonofsError):
    """Cached bytes do not match their checksum."""

    code = 4003
    errno = _errno.EIO
    retry = True


class NotCached(MonofsError):
    """The page is not in this worker's cache."""

    code = 4004
    errno = _errno.ENODATA


class CapabilityExpired(MonofsError):
    """The capability is too old; open the file again."""

    code = 4005
    errno = _errno.ESTALE
    retry = True


class CapabilityInvalid(MonofsError):
    """The capability is forged, malformed or of another cluster."""

    code = 4006
    errno = _errno.EACCES


class ContentChanged(MonofsError):
    """The file changed in the store while it was read, and the old bytes are no longer all cached."""

    code = 4007
    errno = _errno.ESTALE
    hint = "open the file again to read the new content"


class WriteLost(MonofsError):
    """The worker does not have what was written so far: it restarted, or waited too long for more."""

    code = 4008
    errno = _errno.EIO
    hint = "write the file again from its beginning"


# ---- 5xxx journal -----------------------------------------------------------------------------------------------------


class NotLeader(MonofsError):
    """This master does not lead; ``detail['leader']`` is a hint where the leader is, or None."""

    code = 5001
    errno = _errno.EAGAIN
    retry = True


class OutcomeUnknown(MonofsError):
    """The change was proposed, but whether it was committed is not known; retry under the same request id."""

    code = 5002
    errno = _errno.EAGAIN
    retry = True


class JournalCorrupt(MonofsError):
    """A journal segment is damaged before its end."""

    code = 5003
    errno = _errno.EIO
    hint = "restore from a backup, or see docs/formats.md on repairing a journal"


class JournalFailed(MonofsError):
    """Writing or syncing the journal failed; the node stops."""

    code = 5004
    errno = _errno.EIO


class EntryTooLarge(MonofsError):
    """A change is larger than one journal entry may be."""

    code = 5005
    errno = _errno.EMSGSIZE


class UnknownEntry(MonofsError):
    """The journal holds an entry of a kind or version this release does not know."""

    code = 5006
    errno = _errno.EPROTO
    hint = "start the release that wrote this home"


class Diverged(MonofsError):
    """This member's state is not the leader's at the same entry."""

    code = 5007
    errno = _errno.EIO


class QuorumRefused(MonofsError):
    """A change of the group of masters that would endanger it, or that makes no sense for it."""

    code = 5008
    errno = _errno.EINVAL


# ---- 6xxx under storage -----------------------------------------------------------------------------------------------


class UfsUnreachable(MonofsError):
    """The store cannot be reached."""

    code = 6001
    errno = _errno.EHOSTUNREACH
    retry = True


class UfsDenied(MonofsError):
    """The store refused the credentials or the access."""

    code = 6002
    errno = _errno.EACCES


class UfsNotFound(MonofsError):
    """The store has no such object."""

    code = 6003
    errno = _errno.ENOENT


class UfsBucketNotFound(MonofsError):
    """The bucket or root directory does not exist."""

    code = 6004
    errno = _errno.ENOENT


class UfsThrottled(MonofsError):
    """The store asks to slow down."""

    code = 6005
    errno = _errno.EAGAIN
    retry = True


class UfsChanged(MonofsError):
    """The object in the store is not the version expected."""

    code = 6006
    errno = _errno.ESTALE


class UfsBadBody(MonofsError):
    """The store's answer was cut short or is not what its headers say."""

    code = 6007
    errno = _errno.EIO
    retry = True


class UfsFailed(MonofsError):
    """The store answered with an error."""

    code = 6008
    errno = _errno.EIO
    retry = True


class UfsOption(MonofsError):
    """A mount option or URI is unknown or malformed."""

    code = 6009
    errno = _errno.EINVAL


class UfsUnknown(MonofsError):
    """The store was asked to change something and did not tell whether it did."""

    code = 6010
    errno = _errno.EIO
    hint = "monofs keeps asking the store and takes over what it finds; look at the path again shortly"


class UfsNotEmpty(MonofsError):
    """The store's directory is not empty."""

    code = 6011
    errno = _errno.ENOTEMPTY


class UfsFull(MonofsError):
    """The store has no room left, or a quota there is used up."""

    code = 6012
    errno = _errno.ENOSPC
    hint = "make room in the store or raise its quota, then write again"


class UfsNoAccess(UfsUnreachable):
    """The mode of the mount does not let its store be asked."""

    code = 6013
    errno = _errno.EACCES
    retry = False
    hint = "`monofs mount update PATH --ufs-mode readWrite` lets it be asked again"


class UfsPaused(UfsUnreachable):
    """The store failed again and again, and is not asked for a while; ``again_s`` says for how long at most."""

    code = 6014


STORE_AWAY = (UfsUnreachable, UfsThrottled, UfsFailed, UfsBadBody, DeadlineExceeded)
"""The store cannot tell right now, as against: it told us no."""


# ---- 7xxx client ------------------------------------------------------------------------------------------------------


class NoMaster(MonofsError):
    """No master answers."""

    code = 7001
    errno = _errno.EHOSTUNREACH
    retry = True
    hint = "is `monofs serve` running? give its address with --masters, masters= or MONOFS_MASTERS"


class NoWorker(MonofsError):
    """No worker can serve this content."""

    code = 7002
    errno = _errno.EHOSTUNREACH
    retry = True


class Closed(MonofsError):
    """The file or file system object is closed."""

    code = 7003
    errno = _errno.EBADF


class InvariantBroken(Exception):
    """What should always be true is not: a bug. The node stops before it can spread."""


def invariant(condition: object, statement: str) -> None:
    """Stop the node when ``condition`` is false; ``statement`` says what should have been true."""
    if not condition:
        raise InvariantBroken(statement)


def _subclasses(cls: type[MonofsError]) -> list[type[MonofsError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_subclasses(sub))
    return found


BY_CODE: dict[int, type[MonofsError]] = {cls.code: cls for cls in _subclasses(MonofsError)}
"""Code to class; an unknown code decodes as :class:`MonofsError` itself with the code in its message."""


def from_code(code: int, message: str, detail: dict[str, str | int | None] | None = None) -> MonofsError:
    """Rebuild the error a peer sent."""
    cls = BY_CODE.get(code)
    if cls is None:
        return MonofsError(f"{message} (unknown error code {code})", **(detail or {}))
    return cls(message, **(detail or {}))


_UNUSUAL = frozenset({1000, 1002, 1003, 2001, 2006, 4002, 4003, 5002, 5003, 5004, 5005, 5006, 5007, *range(6001, 6009)})


def is_unusual(code: int) -> bool:
    """Whether an operator may have to look into an error of this code: something broke, hung, or a store failed.

    Such errors are logged where they happen and reach users with the id of their request, ``detail["trace"]`` (16 hex digits).
    """
    return code in _UNUSUAL


def _rebuild(code: int, message: str, detail: dict[str, str | int | None]) -> MonofsError:
    return from_code(code, message, detail)


def unreachable(value: Never) -> Never:
    """For exhaustive matches: mypy proves this is never reached."""
    raise InvariantBroken(f"unexpected value {value!r}")
