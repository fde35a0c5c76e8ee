"""The audit log: who asked for which change, from where, whether it was allowed and whether it succeeded.

One record a call on the logger ``monofs.audit``; where it is written is the node's business. Paths and names only: no option values,
no secrets, no bytes of files.
"""

from __future__ import annotations

import logging

from monofs.observe.logs import AUDIT_LOGGER
from monofs.observe.tracing import show_trace

_logger = logging.getLogger(AUDIT_LOGGER)


def audit(
    *,
    principal: str,
    peer: str,
    command: str,
    source: str,
    target: str = "",
    allowed: bool,
    succeeded: bool,
    error: int = 0,
    trace: int = 0,
    by: str = "",
) -> None:
    """Write one record; ``source`` and ``target`` are paths, ``error`` the code of the failure or 0, ``by`` who spoke for the principal, if not itself."""
    if not _logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "principal": principal,
        "peer": peer,
        "command": command,
        "source": source,
        "target": target,
        "allowed": allowed,
        "succeeded": succeeded,
        "error": error,
        "trace": show_trace(trace),
    }
    if by:
        fields["by"] = by
    # without looking for the caller's file and line, which nobody reads here: every change passes through
    record = logging.LogRecord(AUDIT_LOGGER, logging.INFO, "", 0, command, None, None)
    record.__dict__["fields"] = fields
    _logger.handle(record)
