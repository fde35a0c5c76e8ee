"""`monofs admin quorum`: the group of masters, and changes of it."""

from __future__ import annotations

import click

from monofs.cli.group import Group
from monofs.cli.main import Session
from monofs.cli.output import print_json, print_table, show_seconds, status_lines
from monofs.journal.lookout import SILENT_S
from monofs.model.errors import QuorumRefused
from monofs.rpc.api import QuorumAnswer, QuorumMember

SHOW_EVERY_S = 5.0


@click.group(cls=Group)
def quorum() -> None:
    """See and change the group of masters."""


@quorum.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def info(session: Session, as_json: bool) -> None:
    """Show the masters: who leads, who votes, how far each has come."""
    answer = session.fs.quorum(of_leader=True)
    if as_json:
        shown = {name: getattr(answer, name) for name in answer.__struct_fields__ if name != "members"}
        members = [{name: getattr(each, name) for name in each.__struct_fields__} for each in answer.members]
        print_json(shown | {"members": members})
        return
    if not answer.members:
        click.echo("one master, alone")
        return
    print_table(
        ["MASTER", "ROLE", "VOTES", "BEHIND", "HEARD", "JOURNAL", "CLIENTS"],
        [
            (
                each.name,
                _role(answer, each),
                "yes" if each.voter else "no",
                str(max(answer.last_index - each.match, 0)) if each.match >= 0 else "-",
                show_seconds(each.heard_s) if each.heard_s >= 0 else "-",
                each.journal,
                each.rpc or "-",
            )
            for each in sorted(answer.members, key=lambda member: member.name)
        ],
    )
    click.echo(summary(answer))


def _role(answer: QuorumAnswer, member: QuorumMember) -> str:
    """While nobody leads, a master knows of no other what it is."""
    if not answer.leader:
        return answer.role if member.id == answer.me else "?"
    return "silent" if answer.leader == answer.me and is_silent(member) else member.role


def is_silent(member: QuorumMember) -> bool:
    """As the leader sees it: it does not count for a majority now."""
    return member.state != "self" and not 0 <= member.heard_s <= SILENT_S


def summary(answer: QuorumAnswer) -> str:
    """One line: what the group can bear now; or that it can do nothing."""
    if answer.removed:
        return answer.removed
    voters = [each for each in answer.members if each.voter]
    line = f"term {answer.term}, entry {answer.commit_index} committed; "
    majority = len(voters) // 2 + 1
    if not answer.leader:
        return line + (
            f"no master leads, as far as this one knows: nothing can be changed before {majority} of the {len(voters)} voters run and "
            "reach one another"
        )
    if answer.leader == answer.me:
        lost = [each.name for each in voters if is_silent(each)]
        more = " more" if lost else ""
        line += f"{', '.join(lost)} not heard; " if lost else ""
        line += (
            f"the group bears the loss of {max(len(voters) - len(lost) - majority, 0)}{more} of {len(voters)} voters"
        )
    else:
        line += "the leader did not answer, and only it knows who is heard"
    return line + ("; a change of voters is in progress" if answer.changing else "")


@quorum.command()
@click.argument("member", metavar="NAME=HOST:PORT")
@click.option("--promote", is_flag=True, help="Wait until it has caught up, then let it vote.")
@click.pass_obj
def add(session: Session, member: str, promote: bool) -> None:
    """Take in a master that was started with --id and --peers on an empty home: as a learner, without a vote."""
    name, equals, address = member.partition("=")
    if not equals or ":" not in address:
        raise click.UsageError(f"a new master is NAME=HOST:PORT (of its journal door), not {member!r}")
    session.fs.change_quorum("add", name, address)
    click.echo(f"{name} is a learner now and catches up")
    if promote:
        promote_when_ready(session, name)


@quorum.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until it has caught up.")
@click.pass_obj
def promote(session: Session, name: str, wait: bool) -> None:
    """Let a learner vote that has caught up."""
    if wait:
        promote_when_ready(session, name)
    else:
        session.fs.change_quorum("promote", name)
        click.echo(f"{name} votes now")


def promote_when_ready(session: Session, name: str) -> None:
    """Wait for a learner, saying how far it is."""
    try:
        with status_lines(SHOW_EVERY_S) as show:
            session.fs.promote_when_ready(name, progress=lambda group: show(*progress_of(group, name)))
    except (KeyboardInterrupt, QuorumRefused):
        click.echo(f"{name} has no vote yet; `monofs admin quorum promote --wait {name}` goes on", err=True)
        raise
    click.echo(f"{name} votes now")


def progress_of(group: QuorumAnswer, name: str) -> tuple[str, str]:
    """How far a learner is: the kind of it, and in words."""
    member = next((each for each in group.members if each.name == name), None)
    if member is None or not group.leader:
        return "leaderless", "no master leads"
    if is_silent(member):
        return "silent", (
            f"{name} is not heard{f' for {show_seconds(round(member.heard_s))}' if member.heard_s > 0 else ''}: does it run, and do the others reach its "
            f"journal door, {member.journal}?"
        )
    if member.copied >= 0:
        return "copied", f"{name} gets the whole state: {member.copied:.0%}"
    if member.match < 0:
        return "behind", f"it is not known yet how far {name} is"
    return "behind", f"{name} is {max(group.last_index - member.match, 0)} entries behind"


@quorum.command()
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Take a master out of the group, a dead one too; refused when the rest could not commit any more."""
    session.fs.change_quorum("remove", name)
    click.echo(f"{name} is no longer in the group: stop it, and never start it with this home again")


@quorum.command()
@click.argument("name")
@click.pass_obj
def transfer(session: Session, name: str) -> None:
    """Hand leadership to another master, without a pause for clients."""
    session.fs.change_quorum("transfer", name)
    click.echo(f"{name} leads now")
