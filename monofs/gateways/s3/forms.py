"""PostObject: a file that a browser uploads by an HTML form, with the rights of who signed the form's policy.

Invariant: no byte of the file is kept in memory, and nothing asked of the cluster, before signature and policy were verified; they come in fields ahead of the
file. Not here: multipart/form-data (``form_body``), what a policy says (``post_policy``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from monofs.gateways.s3 import bodies, documents
from monofs.gateways.s3.asking import Asked, Masters
from monofs.gateways.s3.checksums import Claim
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.files import Files
from monofs.gateways.s3.form_body import FormBody
from monofs.gateways.s3.incoming import Incoming, Received, Update
from monofs.gateways.s3.keys import KEY_MAX_BYTES
from monofs.gateways.s3.metadata import KEPT, check_supported
from monofs.gateways.s3.objects import Objects, read_attributes
from monofs.gateways.s3.post_policy import read_policy
from monofs.gateways.s3.receiving import BODY_MAX_BYTES, Receiving
from monofs.gateways.s3.signing import Signed, check_form, encode
from monofs.model.attributes import Attributes
from monofs.model.principal import Right
from monofs.model.sigv4 import UNSIGNED
from monofs.rpc.s3_keys import S3Key

FILENAME = "${filename}"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z").match
_STATUSES = {"200": 200, "201": 201}
"""Of success_action_status; all others are 204."""


class Forms:
    """PostObject of one door. ``find``: a key that is honoured."""

    def __init__(
        self,
        files: Files,
        objects: Objects,
        find: Callable[[str], S3Key | None],
        masters: Masters,
        now_s: Callable[[], float],
        reactor: Any,
    ) -> None:
        self._files, self._objects, self._reactor = files, objects, reactor
        self._find, self._masters, self._now_s = find, masters, now_s

    async def post(self, asked: Asked) -> None:
        """PostObject."""
        form = _Form(asked, self._find, self._now_s)
        receiving = Receiving(asked, self._reactor, incoming=form)
        receiving.begin()
        try:
            begun = await receiving.read()
            by, fields, attributes = form.accepted()
            by = msgspec.structs.replace(by, master=self._masters.hold(by.key))
            try:
                await self._files.check_bucket(by)
                inode = await self._objects.store_from(by, by.path(), begun, receiving, attributes, {})
            finally:
                self._masters.release(by.key)
        finally:
            receiving.stop()
        _answer(by, fields, inode.etag or receiving.etag)


class _Form:
    """The file of a form as :class:`Receiving` takes it; what it is to be is known once the fields have come."""

    def __init__(self, asked: Asked, find: Callable[[str], S3Key | None], now_s: Callable[[], float]) -> None:
        self._asked, self._find, self._now_s = asked, find, now_s
        self._body = FormBody(asked.headers.get("content-type", ""), self._begin)
        self._file: Incoming | None = None
        self._accepted: tuple[Asked, dict[str, str], Attributes] | None = None

    def accepted(self) -> tuple[Asked, dict[str, str], Attributes]:
        """The request in the name of who signed the form, its fields, and what is kept with the file."""
        if self._accepted is None:
            raise S3Error("IncorrectNumberOfFilesInPostRequest")
        return self._accepted

    @property
    def length(self) -> int:
        """Bytes of the file, at most."""
        return 0 if self._file is None else self._file.length

    @property
    def claim(self) -> Claim | None:
        """The checksum a field claims."""
        return None if self._file is None else self._file.claim

    @property
    def plain_bytes(self) -> int:
        """None: the file ends where a line says so."""
        return 0

    def decode(self, data: bytes | memoryview) -> list[memoryview]:
        """The file's bytes. Raises ``S3Error``."""
        pieces = self._body.feed(data)
        return [part for piece in pieces for part in self._known().decode(piece)]

    @property
    def hashes(self) -> Sequence[Update]:
        """Of the file."""
        return self._known().hashes

    def finish(self) -> Received:
        """The form has ended. Raises ``S3Error``."""
        self._body.finish()
        return self._known().finish()

    def _known(self) -> Incoming:
        if self._file is None:
            raise S3Error("IncorrectNumberOfFilesInPostRequest")
        return self._file

    def _begin(self, fields: dict[str, str], filename: str, _: str) -> None:
        """All fields are here: everything is verified that can be before the file."""
        asked = self._asked
        key = form_key(fields.get("key", ""), filename)
        if "policy" not in fields:
            raise S3Error("AccessDenied", "The form has no policy that somebody signed.")
        access_key = check_form(fields, self._secret_of)
        policy = read_policy(fields["policy"], BODY_MAX_BYTES)
        policy.check({**fields, "key": key, "bucket": asked.request.bucket}, self._now_s())
        signer = self._find(access_key)
        if signer is None:
            raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
        signed = Signed(access_key, UNSIGNED, None)
        of_key = asked.of(asked.request.bucket, key)
        by = msgspec.structs.replace(of_key, signed=signed, key=signer)
        by.check_right(Right.WRITE)
        by.check_reach(key)
        if by.place().is_directory:
            raise S3Error("InvalidArgument", "A key that ends in a slash is a directory here: a form cannot upload it.")
        headers = _headers(fields)
        check_supported(headers)
        attributes = read_attributes(headers)
        if "tagging" in fields:
            tags = bodies.read_tagging(fields["tagging"].encode(), bodies.OBJECT_TAGS_MAX)
            attributes = msgspec.structs.replace(attributes, tags=tags)
        self._file = Incoming(headers, signed, policy.most, least_bytes=policy.least)
        self._accepted = by, fields, attributes

    def _secret_of(self, access_key: str) -> str | None:
        signer = self._find(access_key)
        return None if signer is None else signer.secret


def form_key(template: str, filename: str) -> str:
    """The key that the field ``key`` names. Raises ``S3Error``, before it is made, for one that cannot be: a form may name the file a thousand times."""
    if not template:
        raise S3Error("InvalidArgument", "A form needs the field key, before its file.", ArgumentName="key")
    name, times = re.split(r"[/\\]", filename)[-1], template.count(FILENAME)
    length = len(template) + times * (len(name) - len(FILENAME))
    if length > KEY_MAX_BYTES:
        raise S3Error("KeyTooLongError", Size=length, MaxSizeAllowed=KEY_MAX_BYTES)
    if not length:
        raise S3Error("InvalidArgument", "The file of the form has no name to make a key of.", ArgumentName="key")
    return template.replace(FILENAME, name)


def _headers(fields: Mapping[str, str]) -> dict[str, str]:
    """Those that a PUT would have had in the place of these fields. Raises ``S3Error`` (InvalidArgument)."""
    headers = {}
    for name, value in fields.items():
        if name == "acl":
            headers["x-amz-acl"] = value
        elif name in KEPT or name == "content-md5" or name.startswith("x-amz-"):
            if not _TOKEN(name):
                raise S3Error("InvalidArgument", "A field is no name of a header.", ArgumentName=name)
            headers[name] = value.encode().decode("latin-1").strip(" \t")
    return headers


def _answer(asked: Asked, fields: Mapping[str, str], etag: str) -> None:
    """As success_action_redirect or success_action_status say."""
    bucket, key = asked.request.bucket, asked.request.key
    scheme = "https" if asked.exchange.secure else "http"
    location = f"{scheme}://{asked.headers.get('host', '')}{asked.request.head.path.rstrip('/')}/{encode(key)}"
    headers = {"ETag": f'"{etag}"', "Location": location}
    url = fields.get("success_action_redirect") or fields.get("redirect", "")
    if _is_url(url):
        told = f"bucket={encode(bucket)}&key={encode(key)}&etag={encode(headers['ETag'])}"
        asked.answer(303, {**headers, "Location": f"{url}{'&' if '?' in url else '?'}{told}"})
        return
    status = _STATUSES.get(fields.get("success_action_status", ""), 204)
    asked.answer(status, headers, documents.posted_document(location, bucket, key, etag) if status == 201 else b"")


def _is_url(text: str) -> bool:
    """Whether a browser may be sent there; what is none is ignored, as at AWS."""
    try:
        return urlsplit(text).scheme in ("http", "https") and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        return False
