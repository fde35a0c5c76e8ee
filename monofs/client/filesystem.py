"""`monofs.connect()` and the file system object it gives: the Python SDK.

Every public method raises MonofsError subclasses that are the matching OSErrors too (errors.py).

Not here: life, threads, forks and pickles (connected.py), looking and reading (reading.py), opening and changing (changing.py), what
goes on in the cluster (steering.py), mounts and administration (administration.py), how calls are retried (session.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from monofs.client.changing import Changing
from monofs.client.errors import public
from monofs.client.fallback import read_stores
from monofs.client.session import SILENCE_S, Options
from monofs.client.steering import Steering
from monofs.model.errors import InvalidArgument
from monofs.model.options import LoadType, ReadType
from monofs.rpc.addresses import split_addresses
from monofs.rpc.api import ReadOptions
from monofs.rpc.handshake import Credential
from monofs.rpc.tls import ClientTls

DEFAULT_MASTERS = "127.0.0.1:19998"
BOUND_S = 5.0
"""Of ``bounded``, when it names none."""


@public
def connect(
    masters: str | Sequence[str] | None = None,
    *,
    cluster_secret_file: str | None = None,
    token: str | None = None,
    token_file: str | None = None,
    tls_ca: str | None = None,
    timeout_s: float = 30.0,
    sync_interval_s: float | None = None,
    read_type: str = "CACHE",
    consistency: str = "linearizable",
    stores: Mapping[str, Mapping[str, str]] | None = None,
) -> FileSystem:
    """Reach a cluster and return its file system.

    ``masters``: ``host:port``, several with commas or as a sequence; without it ``MONOFS_MASTERS``, else 127.0.0.1:19998.
    ``token_file``: holds a token, as `monofs token add` prints it; without it ``MONOFS_TOKEN_FILE``. ``token``: the token itself.
    ``cluster_secret_file``: the cluster's secret instead; without it ``MONOFS_SECURITY_CLUSTER_SECRET_FILE``. At most one of the three
    is given; none is needed on the master's own machine.
    ``tls_ca``: PEM file of the authorities whose certificates are believed; masters and workers are then spoken to under TLS only.
    Without it ``MONOFS_TLS_CA``; without that too, there is no TLS.
    ``timeout_s``: how long one operation may take, restarts and changes of leader included.
    ``sync_interval_s``: how old metadata of mounted stores may be; None: as each mount says, 0: look each time, -1: never.
    ``read_type``: CACHE, NO_CACHE or CACHE_PROMOTE.
    ``consistency`` of looking at the namespace with several masters: ``linearizable`` shows every change acknowledged anywhere before; ``bounded``
    (by 5 seconds) or ``bounded:SECONDS`` may miss younger ones, ``stale`` any, and every master answers from what it knows, without asking stores.
    Opening, reading and changing files are linearizable always, but while no master answers, a file this program opened within that time (``stale``: an hour) is
    opened again as it was.
    ``stores``: what is read from the stores themselves while no worker lives, by path of the mount, with credentials of this program's own:
    ``{"/lake": {"uri": "s3://bucket/prefix", "access_key": …, "secret_key": …}}``; options as of a mount. Raises ``NoMaster``, ``Unauthenticated``,
    ``InvalidArgument``, ``UfsOption``.
    """
    fs = FileSystem(
        masters,
        cluster_secret_file=cluster_secret_file,
        token=token,
        token_file=token_file,
        tls_ca=tls_ca,
        timeout_s=timeout_s,
        sync_interval_s=sync_interval_s,
        read_type=read_type,
        consistency=consistency,
        stores=stores,
    )
    fs.ping()
    return fs


class FileSystem(Changing, Steering):
    """A cluster's namespace. Arguments as in :func:`connect`, which also proves that a master answers."""

    @public
    def __init__(
        self,
        masters: str | Sequence[str] | None = None,
        *,
        cluster_secret_file: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        tls_ca: str | None = None,
        timeout_s: float = 30.0,
        sync_interval_s: float | None = None,
        read_type: str = "CACHE",
        consistency: str = "linearizable",
        stores: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        if read_type not in ReadType.__members__:
            raise InvalidArgument(f"read_type {read_type!r} is none of {', '.join(ReadType)}")
        _check_seconds("timeout_s", timeout_s)
        if sync_interval_s is not None:
            _check_seconds("sync_interval_s", sync_interval_s)
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s must be positive, not {timeout_s}")
        self._setup(
            Options(
                masters=split_addresses(masters or os.environ.get("MONOFS_MASTERS", "") or DEFAULT_MASTERS),
                credential=find_credential(cluster_secret_file, token, token_file),
                tls=find_tls(tls_ca),
                timeout_s=timeout_s,
                read=ReadOptions(sync_interval_s, LoadType.ONCE),
                look=_looking(consistency, sync_interval_s),
                read_type=read_type,
                stores=read_stores(stores or {}),
            ),
            patient=False,
        )


def reach(masters: str, credential: Credential, tls: ClientTls | None, *, timeout_s: float = 30.0) -> FileSystem:
    """A file system object of exactly these masters and this credential, whatever the environment names: for doors that speak for others. A master that is led to, and hangs, is left
    as one among several is, also where one only was given."""
    look = ReadOptions(None, LoadType.ONCE)
    fs = FileSystem.__new__(FileSystem)
    fs._setup(
        Options(split_addresses(masters), credential, timeout_s, look, look, ReadType.CACHE, tls, silence_s=SILENCE_S),
        patient=True,
    )
    return fs


def find_credential(secret_file: str | None, token: str | None, token_file: str | None) -> Credential:
    """What to show: the one given, else what the environment names: a token before the cluster secret, for it may do less.

    Raises ``InvalidArgument``.
    """
    if sum(map(bool, (secret_file, token, token_file))) > 1:
        raise InvalidArgument("give a token, a token file or the cluster secret, not several of them")
    if token:
        return Credential(token=token)
    if not secret_file:
        token_file = token_file or os.environ.get("MONOFS_TOKEN_FILE", "")
        if token_file:
            return Credential.from_token_file(os.path.expanduser(token_file))
    secret_file = secret_file or os.environ.get("MONOFS_SECURITY_CLUSTER_SECRET_FILE", "")
    return Credential.from_file(secret_file) if secret_file else Credential()


def find_tls(ca: str | None) -> ClientTls | None:
    """How TLS is spoken; None: not at all. Raises ``InvalidArgument`` when the file cannot be used."""
    ca = ca or os.environ.get("MONOFS_TLS_CA", "")
    if not ca:
        return None
    tls = ClientTls(os.path.expanduser(ca))
    tls.context()
    return tls


def _looking(consistency: str, sync_interval_s: float | None) -> ReadOptions:
    kind, colon, bound = consistency.partition(":")
    if kind == "linearizable" and not colon:
        return ReadOptions(sync_interval_s, LoadType.ONCE)
    try:
        bound_s = float(bound) if colon else BOUND_S
    except ValueError:
        bound_s = -1.0
    if kind not in ("bounded", "stale") or (kind == "stale" and colon) or not bound_s >= 0:
        raise InvalidArgument(f"consistency is linearizable, bounded, bounded:SECONDS or stale, not {consistency!r}")
    return ReadOptions(-1.0, LoadType.NEVER, kind, bound_s)


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidArgument(f"{name} is a number of seconds, not {value!r}")
