"""How far a key that is bound to a path reaches, and who shows none: never to names that only begin alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from s3_endpoints import Endpoint, path_of, post_form, refused
from s3_world import new_key

from monofs.testing.buckets import Bucket
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

BUCKET = "reach"
KEYS = ("team/ours", "team-secret/theirs", "team", "other")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Iterator[ServedNode]:
    home = str(tmp_path_factory.mktemp("reach") / "home")
    with ServedNode(home, sets=[f"s3.anonymous={BUCKET}/team,open"]) as served:
        yield served


@pytest.fixture(scope="module")
def owner(node: ServedNode) -> Endpoint:
    """Who may do everything, and has filled the bucket."""
    made = Endpoint("owner", node.doors["s3"], *new_key(node, "owner"))
    made.client.create_bucket(Bucket=BUCKET)
    for key in KEYS:
        made.client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    return made


@pytest.fixture(scope="module")
def bound(node: ServedNode, owner: Endpoint) -> Endpoint:
    """Whose key is bound to `team`."""
    return Endpoint("bound", node.doors["s3"], *new_key(node, "bound", "--prefix", f"/{BUCKET}/team"))


@pytest.mark.parametrize(
    "query", ["list-type=2&prefix=team", "prefix=team", "versions&prefix=team", "uploads&prefix=team"]
)
@pytest.mark.parametrize("signed", [True, False], ids=["bound", "anonymous"])
def test_names_that_only_begin_alike_are_not_listed(bound: Endpoint, owner: Endpoint, query: str, signed: bool) -> None:
    owner.client.create_multipart_upload(Bucket=BUCKET, Key="team-secret/upload")
    answer = bound.raw("GET", path_of(BUCKET, query=query), signed=signed)
    assert answer.told == (403, "AccessDenied")
    assert b"secret" not in answer.body


def test_who_shows_no_key_is_told_of_buckets_he_may_read(node: ServedNode, owner: Endpoint) -> None:
    owner.client.create_bucket(Bucket="open")
    owner.client.create_bucket(Bucket="closed")
    listed = owner.raw("GET", "/", signed=False)
    assert [each.findtext("Name") for each in listed.document.iter("Bucket")] == ["open"]


@pytest.mark.parametrize("signed", [True, False], ids=["bound", "anonymous"])
def test_what_is_below_the_path_is_listed_and_read(bound: Endpoint, signed: bool) -> None:
    listed = bound.raw("GET", path_of(BUCKET, query="list-type=2&prefix=team%2F"), signed=signed)
    assert [each.text for each in listed.document.iter("Key")] == ["team/ours"], listed.body
    assert bound.raw("GET", path_of(BUCKET, "team/ours"), signed=signed).body == b"team/ours"
    assert bound.raw("GET", path_of(BUCKET, "team"), signed=signed).body == b"team"
    for key in ("team-secret/theirs", "other"):
        assert bound.raw("GET", path_of(BUCKET, key), signed=signed).told == (403, "AccessDenied")


@pytest.mark.parametrize("query", ["tagging", "cors", "location", "acl", "policy", "versioning"])
def test_a_prefix_opens_lists_and_nothing_else_of_a_bucket(bound: Endpoint, query: str) -> None:
    target = path_of(BUCKET, query=f"{query}&prefix=team%2F")
    assert bound.raw("GET", target, signed=False).told == (403, "AccessDenied")


def test_who_shows_no_key_sees_nothing_of_uploads_and_chooses_no_headers(bound: Endpoint, owner: Endpoint) -> None:
    upload = owner.client.create_multipart_upload(Bucket=BUCKET, Key="team/upload")["UploadId"]
    for target in (
        path_of(BUCKET, query="uploads&prefix=team%2F"),
        path_of(BUCKET, "team/upload", f"uploadId={upload}"),
    ):
        assert bound.raw("GET", target, signed=False).told == (403, "AccessDenied"), target
    chosen = path_of(BUCKET, "team/ours", "response-content-type=text/html")
    assert bound.raw("GET", chosen, signed=False).told == (400, "InvalidRequest")


def test_a_bound_key_takes_part_in_no_upload_and_copies_from_nowhere_else(bound: Endpoint, owner: Endpoint) -> None:
    upload = owner.client.create_multipart_upload(Bucket=BUCKET, Key="other")["UploadId"]
    for method, key in (("PUT", "other"), ("GET", "other"), ("DELETE", "other")):
        query = f"uploadId={upload}&partNumber=1"
        assert bound.raw(method, path_of(BUCKET, key, query)).told == (403, "AccessDenied"), method
    assert bound.raw("DELETE", path_of(BUCKET, "team/x", f"uploadId={upload}")).told == (404, "NoSuchUpload")
    for source in (f"{BUCKET}/other", f"{BUCKET}/team-secret/theirs", f"/{BUCKET}/team/../other"):
        answer = bound.raw("PUT", path_of(BUCKET, "team/copy"), headers={"x-amz-copy-source": source})
        assert answer.status in (400, 403), source
    assert bound.raw("GET", f"/.monofs-uploads/{upload}/upload").status in (403, 404)


def test_uploads_are_in_no_bucket_whatever_path_it_is(node: ServedNode, owner: Endpoint, bound: Endpoint) -> None:
    upload = owner.client.create_multipart_upload(Bucket=BUCKET, Key="other")["UploadId"]
    for name, path in (("whole", "/"), ("uploads", "/.monofs-uploads")):
        assert node.cli("s3", "bucket", "add", name, path).returncode == 0
    deadline = time.monotonic() + 10
    while owner.raw("GET", "/whole?list-type=2").status == 404 and time.monotonic() < deadline:
        pass  # workers hear of it with their heartbeat
    listed = owner.raw("GET", "/whole?list-type=2")
    assert b"reach/other" in listed.body
    assert b"uploads" not in listed.body + owner.raw("GET", "/whole?delimiter=%2F").body
    for method in ("GET", "PUT", "DELETE"):
        assert owner.raw(method, f"/whole/.monofs-uploads/{upload}/upload").told == (400, "InvalidArgument"), method
        assert owner.raw(method, f"/uploads/{upload}/upload").told == (404, "NoSuchBucket"), method
    assert bound.raw("GET", f"/whole/{BUCKET}/team/ours").body == b"team/ours"
    assert bound.raw("GET", f"/whole/{BUCKET}/other").told == (403, "AccessDenied")


def test_what_is_said_of_a_bucket_is_not_changed_by_who_reaches_a_part_of_it(bound: Endpoint, owner: Endpoint) -> None:
    tags = {"TagSet": [{"Key": "whose", "Value": "all"}]}
    owner.client.put_bucket_tagging(Bucket=BUCKET, Tagging=tags)
    body = b"<Tagging><TagSet><Tag><Key>whose</Key><Value>mine</Value></Tag></TagSet></Tagging>"
    assert bound.raw("PUT", path_of(BUCKET, query="tagging"), body=body).told == (403, "AccessDenied")
    assert bound.raw("DELETE", path_of(BUCKET, query="tagging")).told == (403, "AccessDenied")
    assert owner.client.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == tags["TagSet"]


def test_a_form_reaches_as_far_as_the_key_that_signed_it(node: ServedNode, owner: Endpoint, bound: Endpoint) -> None:
    reader = Endpoint("reader", node.doors["s3"], *new_key(node, "reader", "--read-only"))
    for who, key, status in (
        (bound, "team/by-form", 204),
        (bound, "team-secret/by-form", 403),
        (bound, "by-form", 403),
        (reader, "team/by-reader", 403),
    ):
        form = who.client.generate_presigned_post(BUCKET, key)["fields"]
        assert post_form(who, BUCKET, form, b"x").status == status, (who.name, key)
        assert owner.raw("HEAD", path_of(BUCKET, key)).status == (200 if status == 204 else 404)


def test_what_is_kept_with_a_bucket_is_changed_by_who_reaches_all_of_it(owner: Endpoint, bound: Endpoint) -> None:
    rules = b"<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>"
    tags = b"<Tagging><TagSet/></Tagging>"
    for query, body in (("cors", rules), ("tagging", tags)):
        assert bound.raw("PUT", path_of(BUCKET, query=query), body=body).told == (403, "AccessDenied")
        assert bound.raw("DELETE", path_of(BUCKET, query=query)).told == (403, "AccessDenied")
        assert owner.raw("PUT", path_of(BUCKET, query=query), body=body).status in (200, 204)


def test_a_bucket_is_made_by_who_reaches_all_of_it(node: ServedNode, owner: Endpoint) -> None:
    location = (
        b"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>"
    )
    part = Endpoint("part", node.doors["s3"], *new_key(node, "part", "--prefix", "/unmade/team"))
    for body in (location, b""):
        assert part.raw("PUT", "/unmade", body=body).told == (403, "AccessDenied")
    assert owner.raw("HEAD", "/unmade").status == 404
    whole = Endpoint("whole", node.doors["s3"], *new_key(node, "whole", "--prefix", "/unmade"))
    assert whole.raw("PUT", "/unmade", body=location).status == 200
    assert refused(owner.client.create_bucket, Bucket="unmade") == (409, "BucketAlreadyExists")


@pytest.mark.ceph
def test_who_signs_nothing_has_no_store_asked(
    tmp_path_factory: pytest.TempPathFactory, warm: None, make_bucket: Callable[[], Bucket]
) -> None:
    behind = make_bucket()
    behind.put_all({"seen/": b"bytes", "seen/key": b"x"})
    home = str(tmp_path_factory.mktemp("unsigned") / "home")
    with StoreProxy(behind.endpoint) as proxy, ServedNode(home) as served:
        owner = Endpoint("owner", served.doors["s3"], *new_key(served, "owner"))
        with served.connect() as fs:
            fs.mount_add("/", behind.uri, {**behind.options, "endpoint": proxy.endpoint})
        listed = owner.client.list_objects_v2(Bucket="seen")["Contents"]
        assert [each["Key"] for each in listed] == ["key"]
        proxy.forget()

        def asked(name: str) -> int:
            return sum(name.encode() in each.key or name in each.query for each in proxy.seen())

        crossing = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
        for number, method in enumerate(("GET", "PUT", "HEAD", "DELETE")):
            for target in (f"/never-{number}", f"/never-{number}/key"):
                told = owner.raw(method, target, signed=False)
                assert told.status == (403 if (method, "key" in target) == ("PUT", False) else 404), (method, target)
        for name, status in (("never", 404), ("seen", 403)):
            assert owner.raw("OPTIONS", f"/{name}/key", headers=crossing, signed=False).status == 403
            assert owner.raw("GET", f"/{name}/key", headers=crossing, signed=False).status == status
        assert owner.raw("GET", "/seen/key", signed=False).told == (403, "AccessDenied")
        assert (asked("never"), asked("seen")) == (0, 0)
        assert owner.raw("GET", "/never").told == (404, "NoSuchBucket")
        assert asked("never")


def test_the_modes_of_the_tree_are_the_law_where_they_are_enforced(
    tmp_path_factory: pytest.TempPathFactory, warm: None
) -> None:
    home = str(tmp_path_factory.mktemp("modes") / "home")
    with ServedNode(home, sets=["security.permissions=true"]) as served:
        root = Endpoint("root", served.doors["s3"], *new_key(served, "root"))
        user = Endpoint("user", served.doors["s3"], *new_key(served, "user", "--uid", "1001"))
        bucket = root.make_bucket()  # mode 755
        root.client.put_object(Bucket=bucket, Key="k", Body=b"x")
        assert user.raw("GET", path_of(bucket, "k")).body == b"x"
        assert user.raw("GET", path_of(bucket)).status == 200
        for method, target in (("PUT", "k"), ("PUT", "new"), ("DELETE", "k")):
            assert user.raw(method, path_of(bucket, target)).told == (403, "AccessDenied"), (method, target)
        assert user.raw("PUT", "/users-own").told == (403, "AccessDenied")
        assert user.raw("DELETE", path_of(bucket)).status in (403, 409)
        assert root.raw("GET", path_of(bucket, "k")).body == b"x"
