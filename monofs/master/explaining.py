"""WHY: everything this master knows of one path, for who wonders about an answer: where it lies, how fresh it is, who is at it, what is set.

What workers have cached of it, and why a read missed, the client adds by asking them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from monofs.master.access import check_access
from monofs.master.freshness import NEVER
from monofs.master.intents import Intents
from monofs.master.loading import Loader, awaited
from monofs.master.members import Members
from monofs.master.reading import Reading, parse
from monofs.master.stores import Clock, Stores
from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import INTENTS_MAX, JobKind
from monofs.model.block import block_count, slot_of
from monofs.model.ids import format_content_id
from monofs.model.inode import Flag, Inode, Kind
from monofs.model.mount import Located
from monofs.model.paths import Parts, format_path
from monofs.model.principal import Right
from monofs.rpc.api import ReadOptions, StatRequest, WhyAnswer
from monofs.rpc.service import Call

_PERSISTED = int(Flag.PERSISTED)
PLACED_SHOWN = 16
"""Blocks of a file whose workers are shown."""
SILENT_SHOWN = 100
"""Workers named that are not heard."""


class Explaining:
    """The WHY handler of one master."""

    def __init__(
        self,
        namespace: Namespace,
        loader: Loader,
        stores: Stores,
        members: Members,
        reading: Reading,
        intents: Intents,
        *,
        clock: Clock,
    ) -> None:
        self._namespace, self._loader, self._stores, self._members = namespace, loader, stores, members
        self._reading, self._intents, self._clock = reading, intents, clock

    def why(self, request: StatRequest, call: Call) -> WhyAnswer | Deferred[WhyAnswer]:
        """What this master knows about a path and how fresh it is. Looks at the store as STAT would."""
        parts = parse(request.path)
        found = self._namespace.lookup(parts)
        if self._loader.is_fresh(parts, found, request.options):
            return self._why(parts, found, request.options, call, "memory: fresh")
        call.waits_for = awaited(found.located, parts)
        looked = self._loader.refreshed(parts, found, request.options)
        return looked.addCallback(
            lambda now: self._why(parts, now, request.options, call, "store: was stale or unknown")
        )

    def _why(self, parts: Parts, found: Lookup, options: ReadOptions, call: Call, source: str) -> WhyAnswer:
        check_access(call.principal, Right.READ, self._reading.chain(parts))
        facts: dict[str, Any] = {"path": format_path(parts), "answered_from": source}
        located = found.located
        if located is None:
            facts["mount"] = None
            facts["storage"] = "cache-only: under no mount, the bytes live in worker caches only"
        else:
            facts |= self._mounted(parts, found, located, options)
        facts |= self._changes(parts) | self._settings(parts)
        inode = found.inode
        if inode is None:
            facts["exists"] = False
            return WhyAnswer(facts)
        facts |= {
            "exists": True,
            "kind": Kind(inode.kind).name.lower(),
            "inode": inode.id,
            "size": inode.size,
            "flags": [flag.name.lower() for flag in Flag if inode.flags & flag and flag.name],
            "pinned": found.pinned,
            "changed_index": inode.changed_index,
        }
        if not inode.is_directory:
            facts |= self._file(inode, is_written=any(each["kind"] == "write" for each in facts.get("intents", ())))
        return WhyAnswer(facts)

    def _mounted(self, parts: Parts, found: Lookup, located: Located, options: ReadOptions) -> dict[str, Any]:
        mount = located.mount
        seen_at = self._loader.seen_at(parts, found)
        error = self._stores.trouble_of(mount)
        facts = {
            "mount": mount.path,
            "store": f"{mount.uri}/{located.key}" if located.key else mount.uri,
            "sync_interval_s": self._loader.interval_s(parts, mount, options),
            "age_s": None if seen_at == NEVER else round(self._clock() - seen_at, 3),
            "store_state": "unavailable" if error else "ok",
            "store_error": error,
            "stale_served": bool(self._stores.error_of(mount)) and found.inode is not None,
            "ufs_mode": mount.ufs_mode,
        }
        natural = self._namespace.natural_key(parts)
        if natural is not None and natural.key != located.key:
            facts["moves_to"] = f"{mount.uri}/{natural.key}"
        return facts

    def _changes(self, parts: Parts) -> dict[str, Any]:
        """Intents about the path itself, and jobs that are at what lies there."""
        path, namespace = format_path(parts), self._namespace
        facts: dict[str, Any] = {}
        if namespace.open_intents.is_touched(path):
            for intent in namespace.intents(0, INTENTS_MAX):
                if path in (intent.path, intent.target):
                    info = self._intents.info(intent)
                    facts.setdefault("intents", []).append(
                        {
                            "operation": info.number,
                            "kind": info.kind,
                            "since_ns": info.created_ns,
                            "state": info.state,
                            "error": info.error,
                        }
                    )
        job = namespace.known_jobs.over(parts)
        if job is not None:
            facts["job"] = {"number": job.number, "kind": JobKind(job.kind).name.lower(), "path": job.path}
        return facts

    def _settings(self, parts: Parts) -> dict[str, Any]:
        """The policy in force, and the nearest time to live."""
        facts: dict[str, Any] = {}
        policy = self._namespace.policy_for(parts)
        if policy.id:
            facts["policy"] = {
                "path": policy.path,
                "sync_interval_s": None if policy.sync_interval_ms is None else policy.sync_interval_ms / 1000,
                "write_type": policy.write_type,
                "quota_bytes": policy.quota_bytes,
                "priority": policy.priority,
                "ttl_s": policy.ttl_s,
                "layout": policy.layout,
                "replicas": policy.replicas,
            }
        for depth in range(len(parts), -1, -1):
            ttl = self._namespace.ttl_of(format_path(parts[:depth]))
            if ttl is not None:
                facts["ttl"] = {"path": ttl.path, "expires_ns": ttl.expires_ns, "action": ttl.action}
                break
        return facts

    def _file(self, inode: Inode, *, is_written: bool) -> dict[str, Any]:
        is_persisted = bool(inode.flags & _PERSISTED)
        blocks = block_count(inode.size, inode.layout)
        facts: dict[str, Any] = {
            "content": format_content_id(inode.content),
            "fingerprint": inode.fingerprint,
            "persistence": ("persisted" if is_persisted else "cache-only")
            + (", being written anew" if is_written else ""),
            "layout": inode.layout,
            "blocks": blocks,
            "placed": [self._placed(inode, block) for block in range(min(blocks, PLACED_SHOWN))],
        }
        if blocks > PLACED_SHOWN:
            facts["placed_left_out"] = blocks - PLACED_SHOWN
        if not is_persisted:
            facts["places"] = self._reading.holders(inode)
        silent = self._members.silent(SILENT_SHOWN)
        if silent:
            facts["silent"] = silent
        return facts

    def _placed(self, inode: Inode, block: int) -> dict[str, Any]:
        slot = slot_of(inode.content, block)
        return {"block": block, "slot": slot, "workers": self._members.owners(slot)}
