"""An answer that is long in coming: status 200 at first, white space while its client waits, then the document, which may be that of an error.

As AWS answers CompleteMultipartUpload (API Reference): so neither the client nor what is between takes the silence for the end. What is done within
``SPEAK_S`` is answered with its own status. Invariant: one document, whatever was said before it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.task import LoopingCall

from monofs.gateways.s3 import documents
from monofs.gateways.s3.asking import XML, Asked, told
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.xml import HEAD
from monofs.model.errors import MonofsError
from monofs.observe.tracing import show_trace

SPEAK_S = 1.0


async def answer_slowly(asked: Asked, reactor: Any, work: Coroutine[Any, Any, bytes]) -> None:
    """Answer with the document that ``work`` gives. What it raises is raised unless the answer has begun."""
    exchange = asked.exchange

    def speak() -> None:
        if not exchange.begun:
            exchange.begin(200, [*asked.fields({}), XML])
            exchange.data(HEAD.encode())
        elif exchange.writable:
            exchange.data(b"\n")

    speaking = LoopingCall(speak)
    speaking.clock = reactor
    speaking.start(SPEAK_S, now=False)
    try:
        body = await work
    except (S3Error, MonofsError) as error:
        if not exchange.begun:
            raise
        refusal = told(error, changing=True)
        body = documents.error_document(
            refusal,
            resource=exchange.target.partition("?")[0],
            request_id=show_trace(exchange.trace),
            host_id="monofs",
        )
    finally:
        speaking.stop()
    if exchange.begun:
        exchange.data(body.removeprefix(HEAD.encode()))
        exchange.end()
    else:
        asked.answer(200, {}, body)
