"""The handshake of a connection: versions, who is there, and proof on both sides. Pure: bytes in, bytes out.

    client                                   server
    ClientHello (versions, kind, nonce)  ->
                                         <-  ServerHello (version chosen, nonce)
    ClientProof or TokenProof            ->                      kinds `secret` and `token`
                                         <-  Welcome (cluster, role, release, principal, proof)

Every message is the body of a HELLO frame, a msgpack array that is only ever extended at its end. Invariant: with kinds
`secret` and `token` neither side trusts the other before it saw an HMAC-SHA256 under the secret both know over everything said
so far (both nonces included), compared in constant time; the client proves itself first, so that a stranger who connects learns
nothing to guess the secret with. A client that holds a secret never accepts less. The secret of a token is never said: its
body is, and the server computes the secret from it. Whether a token is honoured is told only to who proved to have it.

A node that has checked somebody's credential itself (an S3 key's) opens a connection *for* him: its hello names a principal, and once the cluster
secret is proved, the connection has that principal's rights and no others, never those of a node.

Not here: encryption (TLS is the transport's), time limits and sockets (link.py, server.py), which addresses are trusted
(``anonymous`` is decided by the listener for each peer).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, TypeVar

import msgspec

from monofs import __version__
from monofs.model.errors import (
    InvalidArgument,
    MonofsError,
    ProtocolError,
    Unauthenticated,
    VersionMismatch,
    invariant,
)
from monofs.model.principal import ANONYMOUS, NODE, Principal, Right
from monofs.model.token import (
    GRANTABLE,
    TEXT_MAX,
    Token,
    check_name,
    decode_token,
    format_token,
    parse_token,
    token_secret,
)
from monofs.rpc.api import PROTOCOL_VERSION, Message
from monofs.rpc.tokens import Tokens

MAGIC = "monofs"
OLDEST_VERSION = 1
NONCE_BYTES = 32
SECRET_MIN_BYTES = 16
SECRET_MAX_BYTES = 4096
KIND_ANONYMOUS = "anonymous"
KIND_SECRET = "secret"  # noqa: S105 - the name of a credential kind
KIND_TOKEN = "token"  # noqa: S105 - likewise


class Behalf(Message):
    """For whom a node opens a connection."""

    name: str
    uid: int
    groups: list[int]
    rights: int


class ClientHello(Message):
    """First frame of a connection. ``oldest``..``newest`` are the protocol versions the client speaks. ``behalf``: with the cluster secret only."""

    magic: str
    oldest: int
    newest: int
    release: str
    credential: str
    nonce: bytes
    behalf: Behalf | None = None


class ServerHello(Message):
    """The version chosen: the newest that both speak."""

    magic: str
    version: int
    nonce: bytes


class ClientProof(Message):
    """HMAC over the transcript of both hellos."""

    proof: bytes


class TokenProof(Message):
    """The same with the secret of a token, and the token's body (model/token.py)."""

    proof: bytes
    token: bytes


class Welcome(Message):
    """The connection is open. ``cluster`` is empty before a cluster exists; ``proof`` is empty for anonymous clients."""

    cluster: bytes
    role: str
    release: str
    principal: str
    proof: bytes = b""


class Credential:
    """What a client shows: nothing (`Credential()`), the cluster secret, or a token.

    A credential made of a file pickles as the file's name and is read again where it is unpickled; one made of
    bytes or text carries them. The secret never shows in ``repr``.
    """

    __slots__ = ("_file", "_secret", "_token", "behalf")

    def __init__(self, secret: bytes | None = None, *, token: str = "") -> None:
        self.behalf: Principal | None = None
        """For whom a node connects."""
        self._secret = None if secret is None else check_secret(secret)
        self._token = b""
        if token:
            self._token, self._secret = parse_token(token)
        self._file: str | None = None

    @classmethod
    def from_file(cls, path: str) -> Credential:
        """Read a cluster secret; surrounding white space does not count. Raises InvalidArgument."""
        self = cls(read_secret(path))
        self._file = path
        return self

    @classmethod
    def from_token_file(cls, path: str) -> Credential:
        """Read a token; surrounding white space does not count. Raises InvalidArgument."""
        self = cls(token=read_token(path))
        self._file = path
        return self

    def for_principal(self, principal: Principal) -> Credential:
        """The cluster secret, shown to connect for somebody whose credential this node has checked."""
        invariant(self.kind == KIND_SECRET, "only a node acts for others")
        shown = Credential(self._secret)
        shown.behalf = principal
        return shown

    @property
    def kind(self) -> str:
        """`anonymous`, `secret` or `token`."""
        return KIND_ANONYMOUS if self._secret is None else KIND_TOKEN if self._token else KIND_SECRET

    @property
    def secret(self) -> bytes | None:
        """What is proved to be known: the cluster secret, or the token's own; None when anonymous."""
        return self._secret

    @property
    def token(self) -> bytes:
        """Body of the token; empty for other kinds."""
        return self._token

    def __repr__(self) -> str:
        return f"Credential({self.kind})"

    def __reduce__(self) -> tuple[Any, ...]:
        invariant(self.behalf is None, "what a node shows for others stays in its process")
        if self._file is not None:
            return (_token_from_file if self._token else _credential_from_file, (self._file,))
        if self._token and self._secret is not None:
            return (_token_from_text, (format_token(self._token, self._secret),))
        return (Credential, (self._secret,))


def _credential_from_file(path: str) -> Credential:
    """What a pickle names: twisted.persisted, once imported, pickles class methods in a way that cannot be undone."""
    return Credential.from_file(path)


def _token_from_file(path: str) -> Credential:
    return Credential.from_token_file(path)


def _token_from_text(text: str) -> Credential:
    return Credential(token=text)


def read_token(path: str) -> str:
    """The token in a file. Raises InvalidArgument when it cannot be read or holds none."""
    try:
        with open(path, "rb") as file:
            return file.read(TEXT_MAX + 1).decode("ascii", "replace").strip()
    except OSError as error:
        raise InvalidArgument(f"cannot read the token {path!r}: {error.strerror}") from None


def read_secret(path: str) -> bytes:
    """The cluster secret in a file. Raises InvalidArgument when it cannot be read or is too short or long."""
    try:
        with open(path, "rb") as file:
            return check_secret(file.read(SECRET_MAX_BYTES + 1).strip())
    except OSError as error:
        raise InvalidArgument(f"cannot read the cluster secret {path!r}: {error.strerror}") from None


def check_secret(secret: bytes) -> bytes:
    """``secret`` itself, or InvalidArgument when its length is not 16 to 4,096 bytes."""
    if not SECRET_MIN_BYTES <= len(secret) <= SECRET_MAX_BYTES:
        raise InvalidArgument(f"a cluster secret has {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes, not {len(secret)}")
    return secret


class ServerHandshake:
    """The listening side: feed bodies of HELLO frames to :meth:`receive`, send what it returns.

    ``principal`` is set when the handshake is done, and ``token`` if it came by one. Errors raised are to be sent as the
    connection's last frame. ``secret`` None: clients cannot prove themselves here. ``anonymous``: this peer may come without a
    credential. ``tokens``: those honoured here.
    """

    __slots__ = (
        "_behalf",
        "_cluster",
        "_role",
        "_secret",
        "_tokens",
        "_transcript",
        "_waiting",
        "anonymous",
        "principal",
        "release",
        "token",
        "version",
    )

    def __init__(
        self, *, secret: bytes | None, anonymous: bool, cluster: bytes, role: str, tokens: Tokens | None = None
    ) -> None:
        self._secret, self._tokens = secret, tokens
        self.anonymous = anonymous
        self.token: Token | None = None
        self._behalf: Principal | None = None
        self._cluster, self._role = cluster, role
        self._transcript: list[bytes] = []
        self._waiting: type[Message] = ClientHello
        self.principal: Principal | None = None
        self.version = 0
        self.release = ""

    def receive(self, body: bytes, *, nonce: bytes | None = None) -> list[bytes]:
        """Bodies of the HELLO frames to send. ``nonce`` is for test vectors.

        Raises VersionMismatch, Unauthenticated, ProtocolError.
        """
        if self.principal is not None:
            raise ProtocolError("a second handshake on an open connection")
        if self._waiting is ClientHello:
            return self._on_hello(body, nonce or secrets.token_bytes(NONCE_BYTES))
        return self._on_proof(body) if self._waiting is ClientProof else self._on_token(body)

    def _on_hello(self, body: bytes, nonce: bytes) -> list[bytes]:
        hello = decode(body, ClientHello)
        if hello.magic != MAGIC:
            raise ProtocolError("the peer does not speak monofs")
        self.version = min(hello.newest, PROTOCOL_VERSION)
        if hello.oldest > PROTOCOL_VERSION or self.version < OLDEST_VERSION:
            raise version_mismatch(
                f"protocol {hello.oldest} to {hello.newest} (release {hello.release[:40]})",
                f"protocol {OLDEST_VERSION} to {PROTOCOL_VERSION} (release {__version__})",
            )
        if len(hello.nonce) != NONCE_BYTES:
            raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(hello.nonce)}")
        self.release = hello.release[:40]
        answer = encode(ServerHello(MAGIC, self.version, nonce))
        self._transcript = [body, answer]
        if hello.behalf is not None:
            self._behalf = _principal_of(hello.behalf, hello.credential)
        if hello.credential == KIND_ANONYMOUS:
            if not self.anonymous:
                raise Unauthenticated("this door asks for the cluster secret or a token, and none was shown")
            self.principal = ANONYMOUS
            return [answer, self._welcome(ANONYMOUS, b"")]
        if hello.credential not in (KIND_SECRET, KIND_TOKEN):
            raise Unauthenticated(f"unknown kind of credential {hello.credential[:40]!r}")
        if self._secret is None:
            raise Unauthenticated("this door has no cluster secret to compare with; connect without one")
        self._waiting = ClientProof if hello.credential == KIND_SECRET else TokenProof
        return [answer]

    def _on_proof(self, body: bytes) -> list[bytes]:
        assert self._secret is not None  # noqa: S101 - _waiting says so
        key = derive_key(self._secret)
        if not hmac.compare_digest(decode(body, ClientProof).proof, proof(key, "client", self._transcript)):
            raise Unauthenticated("the cluster secret shown is not this cluster's")
        return self._open(body, key, self._behalf or NODE)

    def _on_token(self, body: bytes) -> list[bytes]:
        assert self._secret is not None  # noqa: S101 - _waiting says so
        shown = decode(body, TokenProof)
        key = derive_key(token_secret(self._secret, shown.token))
        token = decode_token(shown.token)
        if not hmac.compare_digest(shown.proof, proof(key, "client", self._transcript)) or token is None:
            raise Unauthenticated("the token shown is not this cluster's, or not as it was issued")
        if self._tokens is None:
            raise Unauthenticated("this door takes no tokens")
        principal = self._tokens.check(token, self._cluster)
        self.token = token
        return self._open(body, key, principal)

    def _open(self, body: bytes, key: bytes, principal: Principal) -> list[bytes]:
        self._transcript.append(body)
        self.principal = principal
        return [self._welcome(principal, proof(key, "server", self._transcript))]

    def _welcome(self, principal: Principal, shown: bytes) -> bytes:
        return encode(Welcome(self._cluster, self._role, __version__, principal.name, shown))


class ClientHandshake:
    """The connecting side: send :meth:`begin`, then feed bodies of HELLO frames to :meth:`receive` until ``welcome`` is set."""

    __slots__ = ("_credential", "_hello", "_key", "_transcript", "version", "welcome")

    def __init__(self, credential: Credential) -> None:
        self._credential = credential
        self._key = None if credential.secret is None else derive_key(credential.secret)
        self._hello = b""
        self._transcript: list[bytes] = []
        self.version = 0
        self.welcome: Welcome | None = None

    def begin(self, *, nonce: bytes | None = None) -> bytes:
        """Body of the first HELLO frame. ``nonce`` is for test vectors."""
        behalf = self._credential.behalf
        self._hello = encode_hello(
            ClientHello(
                MAGIC,
                OLDEST_VERSION,
                PROTOCOL_VERSION,
                __version__,
                self._credential.kind,
                nonce or secrets.token_bytes(NONCE_BYTES),
                None if behalf is None else Behalf(behalf.name, behalf.uid, list(behalf.groups), behalf.rights.value),
            )
        )
        return self._hello

    def receive(self, body: bytes) -> list[bytes]:
        """Bodies of the HELLO frames to send. Raises VersionMismatch, Unauthenticated, ProtocolError."""
        if not self._transcript:
            return self._on_hello(body)
        return self._on_welcome(body)

    def _on_hello(self, body: bytes) -> list[bytes]:
        hello = decode(body, ServerHello)
        if hello.magic != MAGIC:
            raise ProtocolError("the peer does not speak monofs")
        if not OLDEST_VERSION <= hello.version <= PROTOCOL_VERSION:
            raise version_mismatch(
                f"protocol {OLDEST_VERSION} to {PROTOCOL_VERSION} (release {__version__})", f"protocol {hello.version}"
            )
        if len(hello.nonce) != NONCE_BYTES:
            raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(hello.nonce)}")
        self.version = hello.version
        self._transcript = [self._hello, body]
        if self._key is None:
            return []
        shown, token = proof(self._key, "client", self._transcript), self._credential.token
        answer = encode(TokenProof(shown, token) if token else ClientProof(shown))
        self._transcript.append(answer)
        return [answer]

    def _on_welcome(self, body: bytes) -> list[bytes]:
        if self.welcome is not None:
            raise ProtocolError("a second handshake on an open connection")
        welcome = decode(body, Welcome)
        if self._key is not None and not hmac.compare_digest(
            welcome.proof, proof(self._key, "server", self._transcript)
        ):
            raise Unauthenticated("the server does not know the cluster secret; is this address the right cluster's?")
        behalf = self._credential.behalf
        if behalf is not None and welcome.principal != behalf.name:  # it would give the rights of a node
            raise VersionMismatch(
                f"the server (release {welcome.release[:40]}) lets no node act for others: upgrade it"
            )
        self.welcome = welcome
        return []


def encode_hello(hello: ClientHello) -> bytes:
    """Without the field that names nobody, as releases before it say it."""
    raw = encode(hello)
    return raw if hello.behalf is not None else bytes([raw[0] - 1]) + raw[1:-1]


def _principal_of(behalf: Behalf, credential: str) -> Principal:
    rights = Right(behalf.rights) & GRANTABLE
    if credential != KIND_SECRET or not rights or behalf.rights & ~int(GRANTABLE) or behalf.name == NODE.name:
        raise ProtocolError("a node connects for others with the cluster secret, and for less than a node")
    check_name(behalf.name)
    return Principal(behalf.name, behalf.uid, tuple(behalf.groups), rights, by=NODE.name)


def derive_key(secret: bytes) -> bytes:
    """The key of proofs: never the secret itself, which wraps other keys too."""
    return hmac.new(secret, b"monofs rpc handshake 1", hashlib.sha256).digest()


def proof(key: bytes, side: str, transcript: list[bytes]) -> bytes:
    """HMAC-SHA256 over ``side`` ("client" or "server") and all bodies so far, each after its length as 4 bytes big-endian."""
    mac = hmac.new(key, side.encode() + b"\0", hashlib.sha256)
    for body in transcript:
        mac.update(len(body).to_bytes(4, "big") + body)
    return mac.digest()


def version_mismatch(client: str, server: str) -> VersionMismatch:
    """An error that names both sides."""
    return VersionMismatch(f"no common protocol version: the client speaks {client}, the server {server}")


_M = TypeVar("_M", bound=Message)
_ENCODER = msgspec.msgpack.Encoder()
encode = _ENCODER.encode


def decode(body: bytes, message_type: type[_M]) -> _M:
    """One handshake message; ProtocolError when it is none."""
    try:
        return msgspec.msgpack.decode(body, type=message_type)
    except (ValueError, RecursionError):
        raise ProtocolError(f"not a {message_type.__name__}: the peer does not speak monofs") from None


def refusal(error: Exception) -> MonofsError:
    """What may be told to a peer that failed the handshake."""
    return error if isinstance(error, MonofsError) else ProtocolError("the handshake failed")
