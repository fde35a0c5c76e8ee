"""What is answered about what S3 knows of buckets and objects and monofs does not keep. Pure; docs/s3.md lists it for users.

The rule: reading tells what AWS tells of a bucket where nothing of the kind was ever configured, so that tools which look first go on; removing what
is not there succeeds, as at AWS; setting is refused, so that nobody believes in a rule that nobody keeps. The bucket or object has to exist: that is
for the caller to see to, before or after.
"""

from __future__ import annotations

from typing import NamedTuple

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.requests import Action, Request
from monofs.gateways.s3.xml import HEAD, NAMESPACE, escape, find, find_all, parse

ACL_MAX_BYTES = 64 << 10
_ACLS = frozenset({"private", "bucket-owner-full-control"})
"""Canned ACLs that say what is so anyway."""


class Configuration(NamedTuple):
    """The answer to GET, an error code or the inner XML of a document; whether DELETE finds nothing to do; whether the answer has no namespace."""

    code: str = ""
    document: str = ""
    deletable: bool = False


def _empty(name: str) -> Configuration:
    return Configuration(document=f"<{name}{NAMESPACE}/>")


def _listing(name: str, *, deletable: bool = True) -> Configuration:
    return Configuration(document=f"<{name}{NAMESPACE}><IsTruncated>false</IsTruncated></{name}>", deletable=deletable)


_BUCKET = {
    "accelerate": _empty("AccelerateConfiguration"),
    "analytics": _listing("ListBucketAnalyticsConfigurationsOutput"),
    "encryption": Configuration("ServerSideEncryptionConfigurationNotFoundError", deletable=True),
    "intelligent-tiering": _listing("ListBucketIntelligentTieringConfigurationsOutput"),
    "inventory": _listing("ListInventoryConfigurationsResult"),
    "lifecycle": Configuration("NoSuchLifecycleConfiguration", deletable=True),
    "logging": _empty("BucketLoggingStatus"),
    "metrics": _listing("ListMetricsConfigurationsResult"),
    "notification": _empty("NotificationConfiguration"),
    "object-lock": Configuration("ObjectLockConfigurationNotFoundError"),
    "ownershipControls": Configuration(
        document=f"<OwnershipControls{NAMESPACE}><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>",
        deletable=True,
    ),
    "policy": Configuration("NoSuchBucketPolicy", deletable=True),
    "policyStatus": Configuration("NoSuchBucketPolicy"),
    "publicAccessBlock": Configuration("NoSuchPublicAccessBlockConfiguration", deletable=True),
    "replication": Configuration("ReplicationConfigurationNotFoundError", deletable=True),
    "requestPayment": Configuration(
        document=f"<RequestPaymentConfiguration{NAMESPACE}><Payer>BucketOwner</Payer></RequestPaymentConfiguration>"
    ),
    "versioning": _empty("VersioningConfiguration"),
    "website": Configuration("NoSuchWebsiteConfiguration", deletable=True),
}
_OBJECT = {
    "legal-hold": Configuration("NoSuchObjectLockConfiguration"),
    "retention": Configuration("NoSuchObjectLockConfiguration"),
}


def answer(request: Request, owner: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body for a ``*_CONFIGURATION`` action; ``owner`` is the id that listings show, ``body`` matters to a PUT of ``?acl`` only.

    Raises ``S3Error`` with the code that is the answer.
    """
    name, method = request.configuration, request.head.method
    if name == "acl":
        return _answer_acl(request, owner, body)
    known = (_BUCKET if request.action is Action.BUCKET_CONFIGURATION else _OBJECT).get(name)
    if known is None or method not in ("GET", "DELETE") or (method == "DELETE" and not known.deletable):
        raise S3Error(
            "NotImplemented", f"monofs does not keep ?{name}; what can be read of it is in its manual, docs/s3.md."
        )
    if method == "DELETE":
        return 204, b""
    if "id" in request.query and "List" in known.document:
        raise S3Error("NoSuchConfiguration")
    if known.code:
        raise S3Error(known.code)
    return 200, (HEAD + known.document).encode()


def _answer_acl(request: Request, owner: str, body: bytes) -> tuple[int, bytes]:
    """Whoever may use a bucket is the owner of all in it: what AWS tells of buckets whose lists are switched off (BucketOwnerEnforced).

    Setting what is so anyway succeeds, as a canned list or as the document that GET gave, which s3cmd sends after every copy.
    """
    method, headers = request.head.method, request.head.headers
    if method == "GET":
        whom = f"<ID>{escape(owner)}</ID><DisplayName>{escape(owner)}</DisplayName>"
        grantee = (
            f'<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">{whom}</Grantee>'
        )
        grant = f"<Grant>{grantee}<Permission>FULL_CONTROL</Permission></Grant>"
        inner = f"<Owner>{whom}</Owner><AccessControlList>{grant}</AccessControlList>"
        return 200, f"{HEAD}<AccessControlPolicy{NAMESPACE}>{inner}</AccessControlPolicy>".encode()
    if method != "PUT":
        raise S3Error("MethodNotAllowed", Method=method)
    if headers.get("x-amz-acl") in _ACLS or (body.strip() and _is_owners(body, owner)):
        return 200, b""
    raise S3Error("AccessControlListNotSupported")


def _is_owners(body: bytes, owner: str) -> bool:
    """Whether an AccessControlPolicy gives FULL_CONTROL to ``owner``, and nothing to anybody else."""
    root = parse(body, "AccessControlPolicy", ACL_MAX_BYTES, 1000)
    grants = [grant for each in find_all(root, "AccessControlList") for grant in find_all(each, "Grant")]
    whom = [find(grantee, "ID") for grant in grants for grantee in find_all(grant, "Grantee")]
    return whom == [owner] and [find(grant, "Permission") for grant in grants] == ["FULL_CONTROL"]
