"""The documents S3 answers with. Pure: records in, bytes out.

API Reference: "Response Syntax" of each action, elements in its order; what is optional there and does not exist here is left out. Keys and what is
made of them are escaped (``xml.escape``) or, where the request says ``encoding-type=url``, percent-encoded first. ETags are given without quotes.
Not here: bodies of requests (``bodies``), configurations nobody keeps (``subresources``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.xml import HEAD, NAMESPACE, encode_url, escape, escape_prose


class Entry(NamedTuple):
    """One object of a listing. ``algorithm`` and ``kind`` are those of its checksum, empty without one."""

    key: str
    size: int
    etag: str
    mtime_s: int
    algorithm: str = ""
    kind: str = ""


class Upload(NamedTuple):
    """One upload in parts of a listing."""

    key: str
    upload_id: str
    begun_s: int
    algorithm: str = ""
    kind: str = ""


class Part(NamedTuple):
    """One part of a listing; ``checksums``: element (``ChecksumCRC32``) to base64."""

    number: int
    size: int
    etag: str
    mtime_s: int
    checksums: Mapping[str, str] = {}


class Refused(NamedTuple):
    """A key that DeleteObjects did not delete."""

    key: str
    version: str
    error: S3Error


@dataclass(slots=True)
class Listing:
    """What every listing of keys says. ``next`` is empty when nothing follows: a key (V1, versions) or a token (V2)."""

    bucket: str
    prefix: str
    delimiter: str
    most: int
    url_encoded: bool
    owner: str
    entries: Sequence[Entry] = ()
    prefixes: Sequence[str] = ()
    next: str = ""

    def write(self) -> Callable[[str], str]:
        """How keys are written."""
        return (lambda text: escape(encode_url(text))) if self.url_encoded else escape


def error_document(error: S3Error, *, resource: str, request_id: str, host_id: str) -> bytes:
    """The body of a refusal ("Error responses", "REST error responses"). ``resource``: the path as the client sent it."""
    more = "".join(f"<{name}>{escape_prose(str(value))}</{name}>" for name, value in error.elements.items())
    return (
        f"{HEAD}<Error><Code>{error.code}</Code><Message>{escape_prose(error.message)}</Message>{more}"
        f"<Resource>{escape_prose(resource)}</Resource><RequestId>{escape_prose(request_id)}</RequestId>"
        f"<HostId>{escape_prose(host_id)}</HostId></Error>"
    ).encode("utf-8", "replace")


def buckets_document(
    owner: str, buckets: Iterable[tuple[str, int]], *, prefix: str = "", region: str = "", token: str = ""
) -> bytes:
    """ListBuckets of (name, seconds since 1970)."""
    place = f"<BucketRegion>{escape(region)}</BucketRegion>" if region else ""
    listed = "".join(
        f"<Bucket><Name>{escape(name)}</Name><CreationDate>{_iso(made_s)}</CreationDate>{place}</Bucket>"
        for name, made_s in buckets
    )
    more = f"<ContinuationToken>{escape(token)}</ContinuationToken>" if token else ""
    more += f"<Prefix>{escape(prefix)}</Prefix>" if prefix else ""
    return _document("ListAllMyBucketsResult", f"{_owner('Owner', owner)}<Buckets>{listed}</Buckets>{more}")


def location_document(region: str) -> bytes:
    """GetBucketLocation; us-east-1 is said by saying nothing."""
    return _document("LocationConstraint", "" if region == "us-east-1" else escape(region))


def objects_document(listing: Listing, *, marker: str) -> bytes:
    """ListObjects. The next marker is told with and without a delimiter."""
    write = listing.write()
    more = f"<NextMarker>{write(listing.next)}</NextMarker>" if listing.next else ""
    head = f"<Prefix>{write(listing.prefix)}</Prefix><Marker>{write(marker)}</Marker>{more}"
    return _document("ListBucketResult", head + _listed(listing, write, _owner("Owner", listing.owner)))


def objects_v2_document(listing: Listing, *, start_after: str, token: str | None, fetch_owner: bool) -> bytes:
    """ListObjectsV2. ``token``: the one sent, which may be empty."""
    write = listing.write()
    head = f"<Prefix>{write(listing.prefix)}</Prefix>"
    head += f"<StartAfter>{write(start_after)}</StartAfter>" if start_after else ""
    head += "" if token is None else f"<ContinuationToken>{escape(token)}</ContinuationToken>"
    head += f"<NextContinuationToken>{escape(listing.next)}</NextContinuationToken>" if listing.next else ""
    head += f"<KeyCount>{len(listing.entries) + len(listing.prefixes)}</KeyCount>"
    return _document(
        "ListBucketResult", head + _listed(listing, write, _owner("Owner", listing.owner) if fetch_owner else "")
    )


def versions_document(listing: Listing, *, key_marker: str, version_marker: str) -> bytes:
    """ListObjectVersions: of each object its one version, called null."""
    write = listing.write()
    head = f"<Prefix>{write(listing.prefix)}</Prefix><KeyMarker>{write(key_marker)}</KeyMarker>"
    head += f"<VersionIdMarker>{escape(version_marker)}</VersionIdMarker>"
    if listing.next:
        head += f"<NextKeyMarker>{write(listing.next)}</NextKeyMarker><NextVersionIdMarker>null</NextVersionIdMarker>"
    owner = _owner("Owner", listing.owner)
    return _document(
        "ListVersionsResult",
        head + _listed(listing, write, owner, "Version", "<VersionId>null</VersionId><IsLatest>true</IsLatest>"),
    )


def uploads_document(
    listing: Listing, uploads: Iterable[Upload], *, key_marker: str, upload_marker: str, next_upload: str
) -> bytes:
    """ListMultipartUploads; ``listing.next`` is the next key marker."""
    write = listing.write()
    head = f"<KeyMarker>{write(key_marker)}</KeyMarker><UploadIdMarker>{escape(upload_marker)}</UploadIdMarker>"
    if listing.next:
        head += f"<NextKeyMarker>{write(listing.next)}</NextKeyMarker><NextUploadIdMarker>{escape(next_upload)}</NextUploadIdMarker>"
    who = _owner("Initiator", listing.owner) + _owner("Owner", listing.owner)
    listed = "".join(
        f"<Upload><Key>{write(each.key)}</Key><UploadId>{escape(each.upload_id)}</UploadId>{who}<StorageClass>STANDARD</StorageClass>"
        f"<Initiated>{_iso(each.begun_s)}</Initiated>{_checksum_of(each.algorithm, each.kind)}</Upload>"
        for each in uploads
    )
    return _document(
        "ListMultipartUploadsResult",
        f"<Bucket>{escape(listing.bucket)}</Bucket>{head}<Prefix>{write(listing.prefix)}</Prefix>{_delimiter(listing, write)}"
        f"<MaxUploads>{listing.most}</MaxUploads><IsTruncated>{_bool(bool(listing.next))}</IsTruncated>{listed}{_prefixes(listing, write)}",
    )


def begun_document(bucket: str, key: str, upload_id: str) -> bytes:
    """CreateMultipartUpload."""
    return _document(
        "InitiateMultipartUploadResult",
        f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{escape(upload_id)}</UploadId>",
    )


@dataclass(slots=True)
class Parts:
    """The parts of an upload or object, from after ``marker`` on; ``next`` is 0 when no more follow."""

    parts: Sequence[Part]
    marker: int
    next: int
    most: int
    total: int = 0


def parts_document(
    bucket: str, key: str, upload_id: str, owner: str, parts: Parts, *, algorithm: str = "", kind: str = ""
) -> bytes:
    """ListParts."""
    listed = "".join(
        f"<Part><PartNumber>{each.number}</PartNumber><LastModified>{_iso(each.mtime_s)}</LastModified>"
        f"<ETag>&quot;{escape(each.etag)}&quot;</ETag><Size>{each.size}</Size>{_elements(each.checksums)}</Part>"
        for each in parts.parts
    )
    return _document(
        "ListPartsResult",
        f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{escape(upload_id)}</UploadId>"
        f"{_owner('Initiator', owner)}{_owner('Owner', owner)}<StorageClass>STANDARD</StorageClass>"
        f"<PartNumberMarker>{parts.marker}</PartNumberMarker><NextPartNumberMarker>{parts.next or _last(parts)}</NextPartNumberMarker>"
        f"<MaxParts>{parts.most}</MaxParts><IsTruncated>{_bool(bool(parts.next))}</IsTruncated>{_checksum_of(algorithm, kind)}{listed}",
    )


def completed_document(
    location: str, bucket: str, key: str, etag: str, checksums: Mapping[str, str], kind: str = ""
) -> bytes:
    """CompleteMultipartUpload."""
    return _document(
        "CompleteMultipartUploadResult",
        f"<Location>{escape(location)}</Location><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
        f"<ETag>&quot;{escape(etag)}&quot;</ETag>{_elements(checksums)}{_kind(kind)}",
    )


def copied_document(
    etag: str, mtime_s: int, checksums: Mapping[str, str], kind: str = "", *, part: bool = False
) -> bytes:
    """CopyObject, or UploadPartCopy."""
    return _document(
        "CopyPartResult" if part else "CopyObjectResult",
        f"<LastModified>{_iso(mtime_s)}</LastModified><ETag>&quot;{escape(etag)}&quot;</ETag>{_kind(kind)}{_elements(checksums)}",
    )


def deleted_document(deleted: Iterable[tuple[str, str]], refused: Iterable[Refused], *, quiet: bool) -> bytes:
    """DeleteObjects of (key, version as it was asked for); ``quiet``: only what was refused is told."""
    listed = (
        [] if quiet else [f"<Deleted><Key>{escape(key)}</Key>{_version(version)}</Deleted>" for key, version in deleted]
    )
    listed += [
        f"<Error><Key>{escape(key)}</Key>{_version(version)}<Code>{error.code}</Code><Message>{escape_prose(error.message)}</Message></Error>"
        for key, version, error in refused
    ]
    return _document("DeleteResult", "".join(listed))


def tagging_document(tags: Mapping[str, str]) -> bytes:
    """GetObjectTagging and GetBucketTagging."""
    listed = "".join(
        f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in tags.items()
    )
    return _document("Tagging", f"<TagSet>{listed}</TagSet>")


@dataclass(slots=True)
class Attributes:
    """What GetObjectAttributes may tell of an object."""

    etag: str
    size: int
    checksums: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    parts: Parts | None = None


def posted_document(location: str, bucket: str, key: str, etag: str) -> bytes:
    """PostObject, where success_action_status is 201; without a namespace, as at AWS."""
    told = f"<Location>{escape(location)}</Location><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
    return f"{HEAD}<PostResponse>{told}<ETag>&quot;{escape(etag)}&quot;</ETag></PostResponse>".encode()


def attributes_document(wanted: Iterable[str], found: Attributes) -> bytes:
    """GetObjectAttributes: those of ``wanted`` (x-amz-object-attributes), which exist."""
    wanted = set(wanted)
    told = f"<ETag>{escape(found.etag)}</ETag>" if "ETag" in wanted else ""
    if "Checksum" in wanted and found.checksums:
        told += f"<Checksum>{_elements(found.checksums)}{_kind(found.kind)}</Checksum>"
    if "ObjectParts" in wanted and found.parts is not None:
        parts = found.parts
        listed = "".join(
            f"<Part><PartNumber>{each.number}</PartNumber><Size>{each.size}</Size>{_elements(each.checksums)}</Part>"
            for each in parts.parts
        )
        told += (
            f"<ObjectParts><PartsCount>{parts.total}</PartsCount><PartNumberMarker>{parts.marker}</PartNumberMarker>"
            f"<NextPartNumberMarker>{parts.next or _last(parts)}</NextPartNumberMarker><MaxParts>{parts.most}</MaxParts>"
            f"<IsTruncated>{_bool(bool(parts.next))}</IsTruncated>{listed}</ObjectParts>"
        )
    told += "<StorageClass>STANDARD</StorageClass>" if "StorageClass" in wanted else ""
    told += f"<ObjectSize>{found.size}</ObjectSize>" if "ObjectSize" in wanted else ""
    return _document("GetObjectAttributesResponse", told)


def _document(name: str, inner: str) -> bytes:
    return f"{HEAD}<{name}{NAMESPACE}>{inner}</{name}>".encode()


def _listed(
    listing: Listing, write: Callable[[str], str], owner: str, name: str = "Contents", version: str = ""
) -> str:
    entries = "".join(
        [
            f"<{name}><Key>{write(key)}</Key>{version}<LastModified>{_iso(mtime_s)}</LastModified><ETag>&quot;{escape(etag)}&quot;</ETag>"
            f"{_checksum_of(algorithm, kind) if algorithm else ''}<Size>{size}</Size>{owner}<StorageClass>STANDARD</StorageClass></{name}>"
            for key, size, etag, mtime_s, algorithm, kind in listing.entries
        ]
    )
    return (
        f"<Name>{escape(listing.bucket)}</Name><MaxKeys>{listing.most}</MaxKeys>{_delimiter(listing, write)}"
        f"<IsTruncated>{_bool(bool(listing.next))}</IsTruncated>{entries}{_prefixes(listing, write)}"
    )


def _delimiter(listing: Listing, write: Callable[[str], str]) -> str:
    told = f"<Delimiter>{write(listing.delimiter)}</Delimiter>" if listing.delimiter else ""
    return told + ("<EncodingType>url</EncodingType>" if listing.url_encoded else "")


def _prefixes(listing: Listing, write: Callable[[str], str]) -> str:
    return "".join([f"<CommonPrefixes><Prefix>{write(each)}</Prefix></CommonPrefixes>" for each in listing.prefixes])


def _owner(name: str, owner: str) -> str:
    shown = escape(owner)
    return f"<{name}><ID>{shown}</ID><DisplayName>{shown}</DisplayName></{name}>"


def _elements(checksums: Mapping[str, str]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in checksums.items())


def _checksum_of(algorithm: str, kind: str) -> str:
    return f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>{_kind(kind)}" if algorithm else ""


def _kind(kind: str) -> str:
    return f"<ChecksumType>{kind}</ChecksumType>" if kind else ""


def _version(version: str) -> str:
    return f"<VersionId>{escape(version)}</VersionId>" if version else ""


def _last(parts: Parts) -> int:
    return parts.parts[-1].number if parts.parts else 0


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _iso(seconds: int) -> str:
    """Whole seconds, so that listings and Last-Modified agree."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))
