"""An S3 server that says what a test tells it to: objects no real server here can hold, and answers no sound server gives."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Request:
    """One request as it came; names of headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Stub:
    """Every GET is answered by ``answer(path with query, headers)``; ``asked`` holds them, oldest first. With ``act`` set, it answers
    everything; ``requests`` holds all that came."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[str, dict[str, str]], Answer] = lambda path, headers: (404, {}, b"")
        self.requests: list[Request] = []
        self.act: Callable[[Request], Answer] | None = None


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Stub]:
    """A stub on loopback; HTTPS for ``localhost`` with a context."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(
                self.command, self.path, headers, self.rfile.read(int(headers.get("content-length", "0")))
            )
            stub.requests.append(request)
            if stub.act is not None:
                status, given, body = stub.act(request)
            else:
                stub.asked.append((self.path, headers))
                status, given, body = stub.answer(self.path, headers)
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **given}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # a client that ends the connection early is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    host = f"https://localhost:{server.server_port}" if context else f"http://127.0.0.1:{server.server_port}"
    stub = Stub(host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def listing(*contents: str, prefixes: tuple[str, ...] = (), cut: bool = False, encoding: bool = True) -> bytes:
    """A ListObjectsV2 answer; ``contents`` are elements inside <Contents>."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        + ("<EncodingType>url</EncodingType>" if encoding else "")
        + f"<IsTruncated>{str(cut).lower()}</IsTruncated>"
        + "".join(f"<Contents>{one}</Contents>" for one in contents)
        + "".join(f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>" for one in prefixes)
        + "</ListBucketResult>"
    ).encode()


def content(key: str, size: int = 1, etag: str = "&quot;tag&quot;", time: str = "2026-01-02T03:04:05.678Z") -> str:
    """What stands inside one <Contents>."""
    tag = f"<ETag>{etag}</ETag>" if etag else ""
    return f"<Key>{key}</Key><LastModified>{time}</LastModified>{tag}<Size>{size}</Size><StorageClass>S</StorageClass>"
