"""`monofs serve`: run a node in the foreground."""

from __future__ import annotations

import click

from monofs.config.loader import load_config


@click.command()
@click.option("--role", type=click.Choice(["all", "master", "worker"]), help="Which services to run [default: all].")
@click.option("--home", metavar="DIR", help="Where this node keeps its state [default: ~/.monofs].")
@click.option("--config", "file", metavar="FILE", help="Settings as TOML; also MONOFS_CONFIG.")
@click.option(
    "--set", "sets", metavar="SECTION.KEY=VALUE", multiple=True, help="One setting; wins over file and environment."
)
@click.option("--id", "name", metavar="NAME", help="This master's name among several (with --peers).")
@click.option(
    "--peers", metavar="NAME=HOST:PORT,...", help="All masters of the cluster with their journal doors, this one too."
)
@click.option("--cluster-secret-file", "secret", metavar="FILE", help="The secret that all nodes of the cluster share.")
@click.option(
    "--weight", type=click.IntRange(0), help="This worker's share of the slots beside those of others [default: 100]."
)
@click.option("--zone", metavar="NAME", help="What may fail together with this worker: a rack, a room.")
@click.option("--ready-file", metavar="FILE", help="Write the doors' addresses there as JSON once ready.")
@click.option(
    "--skip-entry", "skip", metavar="INDEX", type=click.IntRange(1), multiple=True,
    help="Pass over a journal entry that stops the node at every start. Its change is lost: a last resort.",
)  # fmt: skip
def serve(
    role: str | None,
    home: str | None,
    file: str | None,
    sets: tuple[str, ...],
    name: str | None,
    peers: str | None,
    secret: str | None,
    weight: int | None,
    zone: str | None,
    ready_file: str | None,
    skip: tuple[int, ...],
) -> None:
    """Run a node: master, worker, or (by default) both in one process.

    Without any configuration it listens on loopback only, keeps everything in ~/.monofs and is stopped by Ctrl-C.
    """
    flags = [
        ("node.role", role),
        ("node.home", home),
        ("node.ready_file", ready_file),
        ("journal.id", name),
        ("journal.peers", peers),
        ("security.cluster_secret_file", secret),
        ("worker.weight", weight),
        ("worker.zone", zone),
    ]
    given = [f"{name}={value}" for name, value in flags if value is not None]
    loaded = load_config(file=file, sets=[*sets, *given])
    from monofs.node.run import run_node

    raise SystemExit(run_node(loaded, skip=frozenset(skip)))
