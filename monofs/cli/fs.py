"""`monofs fs`: look at and read the tree. Flags are those of the Unix commands of the same names."""

from __future__ import annotations

import click

from monofs.cli import listing, reading, steering


@click.group()
def fs() -> None:
    """Look at and read the tree."""


for _command in (
    *(listing.ls, listing.stat, listing.find, listing.du, listing.count, listing.tree, listing.test),
    *(reading.cat, reading.head, reading.tail, reading.checksum, reading.download),
    *(steering.load, steering.free, steering.pin, steering.unpin, steering.why),
):
    fs.add_command(_command)
