"""Who this master is, and whether its group exists already: asked once, before its log begins.

A master with an empty disk must not vote before it knows that its disk was always empty: what it once acknowledged could be forgotten otherwise. So an id is
drawn with the home and names this disk, not this machine. A group forms when *every* master of ``journal.peers`` says that it belongs
to none yet; all of them then write the same first membership. A master that finds a group which does not know its id waits to be added.

Invariant: no two groups are ever formed from one list, whoever crashes when. Not here: the doors and lanes (master/peers.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.task import deferLater

from monofs.journal.book import Seat, decode_book, encode_book
from monofs.journal.raft.messages import MAX_ID, Membership, NodeId, Position
from monofs.journal.wire import decode_membership
from monofs.model.errors import ConfigError, HomeUnusable, MonofsError
from monofs.node.home import Home, write_durably
from monofs.observe.logs import logger
from monofs.rpc.api import Method, WhoAnswer, WhoRequest
from monofs.rpc.client import Client

log = logger(__name__)
ASK_S = 2.0
PAUSE_S = 0.2
TELL_EVERY = 25


class Identity(msgspec.Struct):
    """``<home>/member``: JSON."""

    name: str
    id: int


IDENTITY = "member"
"""The file in the home."""
FIRST = 1
"""The id of a master that began alone."""


def load_identity(home: Home, name: str, *, has_log: bool) -> Identity:
    """Who the home belongs to; drawn and written durably at its first start. Raises ``HomeUnusable`` when it is another one's.

    ``has_log``: a home without an identity that has one was that of a master alone, which now gets company.
    """
    path = home.path(IDENTITY)
    try:
        with open(path, "rb") as stream:
            found = msgspec.json.decode(stream.read(4096), type=Identity)
    except FileNotFoundError:
        found = Identity(name, FIRST if has_log else secrets.randbelow(MAX_ID - FIRST) + FIRST + 1)
        write_durably(path, msgspec.json.encode(found) + b"\n")
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise HomeUnusable(
            f"{path} is damaged: begin with an empty home, and add this master to the group anew"
        ) from None
    if found.name != name:
        raise HomeUnusable(
            f"home {home.directory} is that of master {found.name}, not {name}: start it with --id {found.name}"
        )
    return found


def proves_removal(who: WhoAnswer, me: NodeId, cluster: bytes, last: Position) -> bool:
    """Whether what another master says of its group shows that ``me``, whose log ends with ``last``, was taken out of it.

    Only what was committed after all that the own log has counts: what is older may be of a time before ``me`` came in, what is not committed may be
    taken back. An id never comes back once it has a log, so the proof holds for ever.
    """
    if not who.membership or (cluster and who.cluster != cluster):
        return False
    if not who.commit_index or (who.commit_term, who.commit_index) <= (last.term, last.index):
        return False
    return me not in decode_membership(who.membership).members()


class Forming:
    """Asks the other masters until it is known how the log begins."""

    def __init__(
        self,
        identity: Identity,
        peers: dict[str, str],
        connect: Callable[..., Client],
        reactor: Any,
        tell: Callable[[str], None],
    ) -> None:
        self._tell, self._told = tell, ""
        self._identity, self._peers, self._reactor = identity, peers, reactor
        self._clients = {
            name: connect(address, connect_timeout_s=ASK_S) for name, address in peers.items() if name != identity.name
        }
        self._known: dict[str, WhoAnswer] = {}
        self._missing: dict[str, str] = {}
        """Why others do not answer."""

    async def find(self) -> Membership:
        """The membership the log begins with; one without voters: this master waits to be added."""
        asked = 0
        try:
            while True:
                for name in self._clients:
                    answer = await self._ask(name)
                    if answer is not None and answer.membership:
                        return self._found(name, decode_membership(answer.membership))
                if len(self._known) == len(self._clients):
                    return self._formed()
                if asked % TELL_EVERY == 0:
                    self._say(f"waiting for the other masters, all of which must be there to begin: {self._reasons()}")
                asked += 1
                await deferLater(self._reactor, PAUSE_S)
        finally:
            for client in self._clients.values():
                client.close()

    async def _ask(self, name: str) -> WhoAnswer | None:
        request = WhoRequest(self._identity.name, self._identity.id)
        try:
            answer: WhoAnswer = await self._clients[name].call(Method.WHO, request, WhoAnswer, ASK_S)
        except MonofsError as error:
            self._known.pop(name, None)
            self._missing[name] = error.message
            log.debug("a master does not answer yet", name=name, error=error.message)
            return None
        if answer.name != name:
            raise ConfigError(
                f"the master at {self._peers[name]} calls itself {answer.name!r}, and journal.peers calls it {name!r}"
            )
        self._known[name] = answer
        self._missing.pop(name, None)
        return answer

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {why}" for name, why in sorted(self._missing.items()))

    def _say(self, line: str) -> None:
        """When it is another than the last: a master may wait for hours."""
        if line != self._told:
            self._told = line
            log.info("no group yet", reason=line)
            self._tell(line)

    def _formed(self) -> Membership:
        seats = [Seat(NodeId(answer.member), name, self._peers[name]) for name, answer in self._known.items()]
        seats.append(Seat(NodeId(self._identity.id), self._identity.name, self._peers[self._identity.name]))
        log.info("a new group of masters", members=", ".join(sorted(self._peers)))
        return Membership(tuple(sorted(seat.id for seat in seats)), (), (), encode_book(seats))

    def _found(self, name: str, membership: Membership) -> Membership:
        if self._identity.id in membership.members():
            return membership
        log.warning(
            "not a member of the group yet: run `monofs admin quorum add`", group_of=name, name=self._identity.name
        )
        own = f"{self._identity.name}={self._peers[self._identity.name]}"
        names = {seat.name for seat in decode_book(membership.book)}
        first = f"`monofs admin quorum remove {self._identity.name}`, then " if self._identity.name in names else ""
        self._say(f"not a member of the group yet: run {first}`monofs admin quorum add {own} --promote`")
        return Membership(())
