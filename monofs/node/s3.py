"""The S3 door of a node with a worker: the services it is made of, from the configuration."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from monofs.config.schema import S3Config
from monofs.gateways.http import Door, Limits, listen_http
from monofs.gateways.s3.asking import Ask, Caller
from monofs.gateways.s3.bytes_out import Sources
from monofs.gateways.s3.door import S3Door, refusal
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import Files
from monofs.model.principal import NODE, Principal
from monofs.rpc.api import ClusterAnswer, ClusterRequest, Method
from monofs.rpc.client import Client
from monofs.rpc.direct import DirectClient
from monofs.rpc.s3_keys import S3Key, S3Keys
from monofs.rpc.tls import ServerTls
from monofs.worker.service import Worker

CHANNELS_MAX = 1024
ASK_S = 5.0


class _Channel:
    """One to the masters, and how many requests use it."""

    __slots__ = ("ask", "channel", "users")

    def __init__(self, channel: Client | DirectClient) -> None:
        self.channel, self.users = channel, 0
        self.ask: Ask = channel.ask if isinstance(channel, DirectClient) else channel.call


class Channels:
    """Connections of this node's doors: to other workers by number, and to the masters for each key. Beyond a number those used longest ago are closed,
    of the masters' only while no request holds one: a master takes the writer for gone whose connection ends between BEGIN_WRITE and the first byte.
    """

    def __init__(
        self,
        worker: Worker,
        master: Caller,
        dial: Callable[[str], Client],
        dial_for: Callable[[Principal], Client | DirectClient],
    ) -> None:
        """``master``: the node's own channel; ``dial``: one to a worker; ``dial_for``: one to the masters with the rights of a principal."""
        self._worker, self._master, self._dial, self._dial_for = worker, master, dial, dial_for
        self.local = DirectClient(worker.service(), NODE)
        self._workers: OrderedDict[str, Client] = OrderedDict()
        self._masters: OrderedDict[S3Key, _Channel] = OrderedDict()

    async def to(self, number: int) -> Any:
        """To a worker; None: nobody knows where it listens."""
        if number == self._worker.worker:
            return self.local
        address = self._worker.address_of(number)
        if address is None:
            cluster = await self._master.call(Method.CLUSTER, ClusterRequest(), ClusterAnswer, ASK_S)
            address = next((each.address for each in cluster.workers if each.id == number), None)
        if address is None:
            return None
        channel = self._workers.get(address)
        if channel is None:
            channel = self._workers[address] = self._dial(address)
            if len(self._workers) > CHANNELS_MAX:
                self._workers.popitem(last=False)[1].close()
        self._workers.move_to_end(address)
        return channel

    def hold(self, key: S3Key) -> Ask:
        """To the masters with a key's rights, open until as many :meth:`release`."""
        held = self._masters.get(key)
        if held is None:
            held = self._masters[key] = _Channel(self._dial_for(key.principal))
        self._masters.move_to_end(key)
        held.users += 1
        return held.ask

    def release(self, key: S3Key) -> None:
        """End one :meth:`hold`."""
        self._masters[key].users -= 1
        if len(self._masters) > CHANNELS_MAX:
            oldest = next((key for key, each in self._masters.items() if not each.users), None)
            if oldest is not None:
                self._masters.pop(oldest).channel.close()

    def close(self) -> None:
        """End all."""
        masters = [each.channel for each in self._masters.values()]
        every: list[Client | DirectClient] = [*self._workers.values(), *masters, self.local]
        for channel in every:
            channel.close()


def open_s3(
    reactor: Any,
    config: S3Config,
    worker: Worker,
    channels: Channels,
    keys: S3Keys,
    *,
    tls: ServerTls | None,
    on_fatal: Callable[[BaseException], None],
) -> Door:
    """Listen. Raises ``ConfigError``."""
    sources = Sources(worker.service(), lambda: worker.worker, channels.to)
    files = Files(sources, channels.local, channels.to, reactor)
    door = S3Door(
        files,
        keys=keys,
        masters=channels,
        domains=[name for each in config.domains.split(",") if (name := each.strip().lower())],
        anonymous=[name for each in config.anonymous.split(",") if (name := each.strip())],
        reactor=reactor,
    )
    return listen_http(
        reactor,
        config.host,
        config.port,
        door.handle,
        name="s3",
        limits=Limits(connections=config.max_connections),
        tls=tls,
        refusal=_refusal,
        on_fatal=on_fatal,
    )


_CODES = {
    400: "InvalidRequest",
    408: "RequestTimeout",
    414: "InvalidURI",
    431: "RequestHeaderSectionTooLarge",
    501: "NotImplemented",
}


def _refusal(status: int, reason: str, trace: int) -> Any:
    """What HTTP refuses by itself, as S3 says it."""
    code = _CODES.get(status, "InternalError" if status == 500 else "InvalidRequest")
    return refusal(S3Error(code, reason[:1].upper() + reason[1:] + "."), "/", trace)
