"""`monofs fs`: look at, read and change the tree. Flags are those of the Unix commands of the same names."""

from __future__ import annotations

import click

from monofs.cli import listing, loading, moving, policy, reading, steering, syncing, writing
from monofs.cli.group import Group
from monofs.cli.main import help_


@click.group(cls=Group)
def fs() -> None:
    """Look at, read and change the tree."""


for _command in (
    *(listing.ls, listing.stat, listing.find, listing.du, listing.count, listing.tree, listing.test),
    *(reading.cat, reading.head, reading.tail, reading.checksum, reading.download),
    *(writing.put, writing.mkdir, writing.touch, moving.cp, moving.mv, moving.rm),
    *(
        syncing.sync,
        syncing.needs_sync,
        syncing.check_consistency,
        policy.set_ttl,
        policy.unset_ttl,
        policy.set_replication,
    ),
    *(loading.load, steering.free, steering.pin, steering.unpin, steering.why, help_),
):
    fs.add_command(_command)

for _name, _command in (
    *((name, writing.put) for name in ("upload", "copyFromLocal")),
    *((name, reading.download) for name in ("get", "copyToLocal")),
):
    fs.add_command(_command, _name)
