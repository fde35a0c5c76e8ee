"""S3's error codes: the one exception of the S3 door, its document, and what each failure of monofs is called by S3's clients. Pure.

Codes and statuses: Amazon S3 API Reference, "Error responses", "List of error codes". Clients decide by code and status alone (whether to
try again, whether a key is missing), so both are AWS's wherever AWS has a code for the case; the words are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from monofs.model import errors as model
from monofs.model.errors import MonofsError

CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "Access control lists are not used here: rights belong to keys and files."),
    "AccessDenied": (403, "Access denied."),
    "AccessForbidden": (403, "No rule of the bucket allows this cross-origin request."),
    "AuthorizationHeaderMalformed": (400, "The Authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The parameters of this presigned URL are not valid."),
    "BadDigest": (400, "The body does not have the checksum that was sent with it."),
    "BadRequest": (400, "The request is not valid."),
    "BucketAlreadyExists": (409, "A bucket of this name exists already."),
    "BucketAlreadyOwnedByYou": (409, "A bucket of this name exists already, and it is yours."),
    "BucketNotEmpty": (409, "The bucket is not empty."),
    "ConditionalRequestConflict": (409, "Another change of this key came in between; try again."),
    "EntityTooLarge": (400, "The body is larger than an upload may be."),
    "EntityTooSmall": (400, "A part other than the last is smaller than 5 MiB."),
    "ExpiredToken": (400, "The session token has expired."),
    "IllegalLocationConstraintException": (400, "The location constraint does not suit this endpoint."),
    "IncorrectNumberOfFilesInPostRequest": (
        400,
        "A form uploads exactly one file, in its field `file`, which is its last.",
    ),
    "IncompleteBody": (400, "The body has another length than was announced."),
    "InsufficientStorage": (507, "There is no room left."),
    "InternalError": (500, "Something failed that should not have; try again."),
    "InvalidAccessKeyId": (403, "This access key is not known here: it never was, was removed, or has expired."),
    "InvalidArgument": (400, "An argument is not valid."),
    "InvalidBucketName": (400, "This is not a valid name for a bucket."),
    "InvalidBucketState": (409, "The bucket is not in a state for this request."),
    "InvalidChunkSizeError": (403, "A chunk of the body has no valid size."),
    "InvalidDigest": (400, "Content-MD5 is not the base64 of 16 bytes."),
    "InvalidLocationConstraint": (400, "The location constraint is not valid."),
    "InvalidObjectState": (403, "The object is not in a state for this request."),
    "InvalidPart": (400, "A part was not uploaded, or has another ETag than was named."),
    "InvalidPartNumber": (416, "The object has no part of this number."),
    "InvalidPartOrder": (400, "The parts are not in ascending order of their numbers."),
    "InvalidPolicyDocument": (400, "The policy of the form is not valid."),
    "InvalidRange": (416, "The range asked for is not satisfiable."),
    "InvalidRequest": (400, "The request is not valid."),
    "InvalidStorageClass": (400, "Only the storage class STANDARD exists here."),
    "InvalidTag": (400, "A tag is not valid."),
    "InvalidToken": (400, "Access keys of monofs have no session tokens."),
    "InvalidURI": (400, "The URI cannot be understood."),
    "KeyTooLongError": (400, "The key is longer than 1,024 bytes."),
    "MalformedACLError": (400, "The access control list is malformed."),
    "MalformedPOSTRequest": (400, "The body is no well-formed multipart/form-data."),
    "MalformedTrailerError": (400, "The trailers of the body are not those announced."),
    "MalformedXML": (400, "The XML of this request is not valid."),
    "MaxMessageLengthExceeded": (400, "The request is too long."),
    "MaxPostPreDataLengthExceededError": (400, "The fields of the form before its file are too long."),
    "MetadataTooLarge": (400, "The user metadata is larger than 2 KB."),
    "MethodNotAllowed": (405, "This method is not allowed on this resource."),
    "MissingContentLength": (411, "The request needs a Content-Length."),
    "MissingRequestBodyError": (400, "The request needs a body."),
    "MissingSecurityHeader": (400, "The request lacks a header."),
    "NoSuchBucket": (404, "There is no such bucket."),
    "NoSuchBucketPolicy": (404, "The bucket has no policy."),
    "NoSuchConfiguration": (404, "The bucket has no such configuration."),
    "NoSuchCORSConfiguration": (404, "The bucket has no CORS configuration."),
    "NoSuchKey": (404, "There is no such key."),
    "NoSuchLifecycleConfiguration": (404, "The bucket has no lifecycle configuration."),
    "NoSuchObjectLockConfiguration": (404, "The object has no lock."),
    "NoSuchPublicAccessBlockConfiguration": (404, "The bucket has no public access block."),
    "NoSuchTagSet": (404, "There are no tags."),
    "NoSuchUpload": (404, "There is no such upload: it was completed, aborted, or never begun."),
    "NoSuchVersion": (404, "There is no such version: files have one, called null."),
    "NoSuchWebsiteConfiguration": (404, "The bucket is no website."),
    "NotImplemented": (501, "This is not implemented."),
    "NotModified": (304, "Not modified."),
    "ObjectLockConfigurationNotFoundError": (404, "The bucket has no object lock."),
    "OperationAborted": (409, "Another change of this resource is in progress; try again."),
    "OwnershipControlsNotFoundError": (404, "The bucket has no ownership controls."),
    "PreconditionFailed": (412, "A condition of the request does not hold."),
    "QuotaExceeded": (403, "The quota of this path has no room left."),
    "ReplicationConfigurationNotFoundError": (404, "The bucket is not replicated."),
    "RequestHeaderSectionTooLarge": (400, "The headers are too long."),
    "RequestTimeout": (400, "The body did not arrive in time."),
    "RequestTimeTooSkewed": (403, "The clocks of client and server differ too much."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The bucket has no encryption configuration."),
    "ServiceUnavailable": (503, "The service cannot answer now; try again."),
    "SignatureDoesNotMatch": (403, "The signature is not the one that this request and the secret of this key give."),
    "SlowDown": (503, "There is more to do than can be done; slow down and try again."),
    "TooManyBuckets": (400, "There are as many buckets as there may be."),
    "UnexpectedContent": (400, "This request takes no body."),
    "XAmzContentSHA256Mismatch": (400, "The body does not have the SHA-256 that was signed."),
}
"""Code to status and the message that is sent unless there is a better one."""


class S3Error(Exception):
    """A refusal as S3 has it. ``elements`` stand in its document beside code and message; ``headers`` go out with it.

    ``NotModified`` is one too: an answer without a document, as every answer to HEAD is.
    """

    def __init__(
        self, code: str, message: str = "", *, headers: Mapping[str, str] | None = None, **elements: str | int
    ) -> None:
        self.code = code
        self.status, default = CODES[code]
        self.message = message or default
        self.headers: Mapping[str, str] = headers or {}
        self.elements = elements
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


_CALLED: dict[type[MonofsError], str] = {
    MonofsError: "InternalError",
    model.InvalidArgument: "InvalidArgument",
    model.Internal: "InternalError",
    model.DeadlineExceeded: "ServiceUnavailable",
    model.Overloaded: "SlowDown",
    model.ConfigError: "InternalError",
    model.HomeInUse: "InternalError",
    model.HomeUnusable: "InternalError",
    model.NotSupported: "NotImplemented",
    model.NotReady: "SlowDown",
    model.DiskFull: "InsufficientStorage",
    model.ProtocolError: "InternalError",
    model.FrameTooLarge: "InternalError",
    model.VersionMismatch: "InternalError",
    model.Unauthenticated: "AccessDenied",
    model.UnknownMethod: "NotImplemented",
    model.ConnectionLost: "ServiceUnavailable",
    model.Unreachable: "ServiceUnavailable",
    model.NotFound: "NoSuchKey",
    model.AlreadyExists: "PreconditionFailed",
    model.NotADirectory: "NoSuchKey",
    model.IsADirectory: "NoSuchKey",
    model.NotEmpty: "BucketNotEmpty",
    model.PermissionDenied: "AccessDenied",
    model.ReadOnly: "AccessDenied",
    model.CrossMount: "NotImplemented",
    model.InvalidPath: "InvalidArgument",
    model.NameTooLong: "InvalidArgument",
    model.Busy: "SlowDown",
    model.MountExists: "OperationAborted",
    model.MountNotFound: "NoSuchBucket",
    model.SessionExpired: "InternalError",
    model.ConditionFailed: "PreconditionFailed",
    model.QuotaExceeded: "QuotaExceeded",
    model.WouldLose: "OperationAborted",
    model.MountPoint: "MethodNotAllowed",
    model.CopyDamaged: "InternalError",
    model.TierFull: "InsufficientStorage",
    model.TierUnusable: "InternalError",
    model.PageCorrupt: "InternalError",
    model.NotCached: "InternalError",
    model.CapabilityExpired: "ServiceUnavailable",
    model.CapabilityInvalid: "InternalError",
    model.ContentChanged: "PreconditionFailed",
    model.WriteLost: "InternalError",
    model.NotLeader: "ServiceUnavailable",
    model.WorkersUsedUp: "InternalError",
    model.OutcomeUnknown: "InternalError",
    model.JournalCorrupt: "InternalError",
    model.JournalFailed: "InternalError",
    model.EntryTooLarge: "InvalidRequest",
    model.UnknownEntry: "InternalError",
    model.Diverged: "InternalError",
    model.QuorumRefused: "InternalError",
    model.UfsUnreachable: "ServiceUnavailable",
    model.UfsDenied: "AccessDenied",
    model.UfsNotFound: "NoSuchKey",
    model.UfsBucketNotFound: "InternalError",
    model.UfsThrottled: "SlowDown",
    model.UfsChanged: "PreconditionFailed",
    model.UfsBadBody: "InternalError",
    model.UfsFailed: "InternalError",
    model.UfsOption: "InternalError",
    model.UfsUnknown: "InternalError",
    model.UfsNotEmpty: "BucketNotEmpty",
    model.UfsFull: "InsufficientStorage",
    model.UfsNoAccess: "AccessDenied",
    model.UfsPaused: "ServiceUnavailable",
    model.NoMaster: "ServiceUnavailable",
    model.NoWorker: "ServiceUnavailable",
    model.Closed: "InternalError",
}
"""What each failure is called. 503: nothing was done, try again. 500: try again, but it may have been done, or an operator has to look."""

_OF_BUCKETS: dict[type[MonofsError], str] = {
    model.NotFound: "NoSuchBucket",
    model.NotADirectory: "NoSuchBucket",
    model.IsADirectory: "NoSuchBucket",
    model.UfsNotFound: "NoSuchBucket",
    model.AlreadyExists: "BucketAlreadyOwnedByYou",
}
"""Where a bucket is meant."""

_OF_CHANGES: dict[type[MonofsError], str] = {
    model.NotADirectory: "InvalidArgument",
    model.IsADirectory: "InvalidArgument",
}
"""Where a key cannot be written because the tree, or the store behind it, cannot hold it beside what is there."""


_PASSED_ON = frozenset({"EntityTooSmall", "InvalidPart", "InvalidPartOrder"})
"""What a store says of an upload of its own is what its client is told."""


def from_monofs(error: MonofsError, *, bucket: bool = False, changing: bool = False) -> S3Error:
    """What a failure of monofs is called in S3. ``bucket``: it is about the bucket, not a key; ``changing``: a key was to be written.

    The sentence of the error goes along (``message`` never holds a secret), and its number as ``MonofsCode``; of missing keys and buckets
    S3's own, so that nothing is told of the tree.
    """
    kind = type(error)
    said = error.detail.get("store_code")
    if said in _PASSED_ON:
        return S3Error(str(said), MonofsCode=error.code)
    called = (_OF_BUCKETS if bucket else _OF_CHANGES if changing else {}).get(kind) or _CALLED.get(
        kind, "InternalError"
    )
    if called in ("NoSuchKey", "NoSuchBucket"):
        return S3Error(called)
    return S3Error(called, str(error), MonofsCode=error.code)
