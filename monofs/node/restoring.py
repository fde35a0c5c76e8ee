"""Restoring a backup into a fresh home, offline.

Order, which is law: the file's head, the cluster secret and the home are judged before anything is written; the home notes whose it will be, so
that one whose restore was cut short never begins a cluster of its own; then the database is installed (metadata/copying.py), in another
incarnation, and only if every invariant holds in it. A restore that failed or died may be run again. Not here: making backups.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import monofs
from monofs.master.secrets import WrappedKeys, unwrap_keys
from monofs.metadata.copyfile import CopyHead, read_copy, read_head
from monofs.metadata.copying import DATABASE, begin_anew, install_database
from monofs.metadata.fsck import check_namespace
from monofs.metadata.snapshot import open_offline
from monofs.model.errors import ConfigError, CopyDamaged, HomeUnusable
from monofs.model.ids import INCARNATION_MAX
from monofs.node.home import open_home, read_secret, write_durably

_FRESH = {
    "lock",
    "format",
    "format.new",
    "cluster.secret",
    "cluster.secret.new",
    "lost+found",
    "monofs.toml",
    "monofs.log",
    "audit.log",
}
"""What may lie in a home before a restore: settings, the secret, and what a restore or a start that was refused left there."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, or would be."""

    head: CopyHead
    incarnation: int
    """The new one; that of the head in a rehearsal."""
    paused: int = 0
    """Jobs that delete or move objects, which an operator is to resume."""


def restore_home(
    source: str,
    directory: str,
    *,
    secret_file: str | None,
    incarnation: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Make ``directory`` (missing or empty, but for settings and secret) the home of a master with the state of the backup ``source``.

    ``secret_file``: the cluster secret of then; None: the home's own ``cluster.secret``. ``incarnation``: above the backup's; None: chosen.
    Raises ``CopyDamaged``, ``ConfigError`` (no secret), ``HomeUnusable``, ``HomeInUse``, ``DiskFull``, ``OSError``; no home is left that would serve.
    """
    head = read_head(source)
    secret = check_secret(head, secret_file or os.path.join(directory, "cluster.secret"))
    check_fresh(directory)
    chosen = choose_incarnation(head.incarnation) if incarnation is None else incarnation
    if not head.incarnation < chosen <= INCARNATION_MAX:
        raise HomeUnusable(
            f"an incarnation lies above the backup's, {head.incarnation}, and is at most {INCARNATION_MAX}"
        )
    home = open_home(directory, software=monofs.__version__, now_ns=time.time_ns())
    try:
        check_fresh(directory)  # nobody else can make it otherwise now
        home.check_restorable(head.cluster)
        home.note_cluster(head.cluster)
        if not os.path.exists(home.path("cluster.secret")):
            write_durably(home.path("cluster.secret"), secret + b"\n", mode=0o600)

        paused = 0

        def prepare(path: str) -> None:
            nonlocal paused
            paused = begin_anew(path, chosen)
            with open_offline(path) as snapshot:
                check_sound(check_namespace(snapshot), source)

        install_database(home.path("namespace"), source, prepare=prepare, advance=advance)
    finally:
        home.close()
    return Restored(head, chosen, paused)


def rehearse(
    source: str, directory: str | None, *, secret_file: str | None, advance: Callable[[int], None] = lambda _: None
) -> Restored:
    """All of a restore that writes nothing: every byte of the file is compared, and the secret and the home too where they are named."""
    head = read_head(source)
    if secret_file is not None or directory is not None:
        check_secret(head, secret_file or os.path.join(directory or "", "cluster.secret"))
    if directory is not None:
        check_fresh(directory)
    read_copy(source, lambda data: advance(len(data)))
    return Restored(head, head.incarnation)


def check_secret(head: CopyHead, path: str) -> bytes:
    """The secret in ``path``, which opens the keys in the backup. Raises ``ConfigError``, ``HomeUnusable``."""
    if not os.path.exists(os.path.expanduser(path)):
        raise ConfigError(
            "a backup holds the keys of the cluster only as its secret wrapped them: name the file with the cluster secret that was in use "
            "when it was made (monofs --cluster-secret-file FILE admin restore …); nothing was written"
        )
    secret = read_secret(path)
    try:
        unwrap_keys(secret, head.cluster, WrappedKeys(head.data_key, head.capability_key))
    except HomeUnusable:
        raise HomeUnusable(
            f"{path} is not the cluster secret this backup was made under, so the credentials in it could not be read: nothing was written"
        ) from None
    return secret


def check_fresh(directory: str) -> None:
    """Raise ``HomeUnusable`` where something lies that a restore would have to replace."""
    try:
        names = set(os.listdir(directory))
        within = set(os.listdir(os.path.join(directory, "namespace"))) if "namespace" in names else set()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HomeUnusable(f"home {directory} cannot be used: {error.strerror}") from None
    if found := sorted(names - _FRESH - {"namespace"}) or ["namespace"] * (DATABASE in within):
        raise HomeUnusable(
            f"{directory} is not empty ({', '.join(found[:3])}): a backup is restored into a new home; move the old one aside, "
            "or name another with --home"
        )


def check_sound(checks: dict[str, list[str]], source: str) -> None:
    """Raise ``CopyDamaged`` unless every invariant holds."""
    broken = [f"{name}: {findings[0]}" for name, findings in checks.items() if findings]
    if broken:
        raise CopyDamaged(f"the namespace in {source} is whole, but not sound: {'; '.join(broken[:3])}")


def choose_incarnation(present: int) -> int:
    """One above ``present`` that another restore of the same backup hardly has: by chance, among the next sixteenth of those left.

    With ``present + 1``, a cluster restored twice from one backup would give the same content ids to other bytes, and a worker that
    served the first of these lives could not tell.
    """
    return present + random.SystemRandom().randint(1, max(1, (INCARNATION_MAX - present) // 16))
