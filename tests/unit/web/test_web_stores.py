"""Forms of stores: made of, and checked by, the stores' own tables; secrets are never needed to check."""

import pytest

from monofs.model.errors import InvalidArgument, MountNotFound
from monofs.rpc.api import MountInfo, WorkerStatusAnswer
from monofs.ufs.registry import OPTIONS
from monofs.web.stores_api import StoreCheck, mount_use, store_check, store_kinds
from monofs.web.viewers import Viewer


class Told:
    """A file system object that knows one mount and what two workers tell."""

    def __init__(self, *answers):
        self.answers = {f"w{number}": answer for number, answer in enumerate(answers)}

    def mount_list(self):
        return [MountInfo(3, "/a", "s3://bucket", {}, [], False, False, None, asked={"requests": 5.0, "seconds": 1.0})]

    def worker_status(self, **_):
        return self.answers


def viewer(*answers):
    return Viewer(principal=None, fs=Told(*answers))


def checked(uri, options=(), *, path="/new", secrets=(), kind="s3", new=True):
    return store_check(viewer(), StoreCheck(kind, path, uri, dict(options), list(secrets), new)).problems


def test_every_option_of_every_store_is_in_its_form_and_secrets_are_marked():
    kinds = store_kinds(viewer())
    assert set(kinds) == set(OPTIONS)
    for scheme, kind in kinds.items():
        assert [each.name for each in kind.options] == [each.name for each in OPTIONS[scheme]]
        assert [each.secret for each in kind.options] == [each.secret for each in OPTIONS[scheme]]
    by_name = {each.name: each for each in kinds["s3"].options}
    assert (by_name["verify_tls"].kind, by_name["endpoint"].kind) == ("boolean", "text")
    assert (by_name["list_page"].kind, by_name["list_page"].least, by_name["list_page"].most) == ("integer", 1, 1000)


def test_what_is_wrong_is_said_at_its_field_all_at_once():
    problems = checked("s3://b", {"endpoint": "ftp://x"}, path="relative")
    assert set(problems) == {"path", "uri", "endpoint"}
    assert checked("s3://bucket/x", {"endpoint": "http://host:9000"}) == {}
    assert "already" in checked("s3://bucket", path="/a")["path"]
    assert checked("s3://bucket", path="/a", new=False) == {}
    assert "uri" in checked("file:///dir", kind="s3")
    with pytest.raises(InvalidArgument):
        checked("ftp://x", kind="ftp")


def test_options_that_belong_together_are_checked_without_the_secret():
    assert "belong together" in checked("s3://bucket", {"access_key": "k"})[""]
    assert checked("s3://bucket", {"access_key": "k"}, secrets=["secret_key"]) == {}


def test_use_of_a_mount_is_the_sum_of_its_workers_and_what_masters_asked():
    counters = {
        "monofs_page_hits{mount=3}": 7.0,
        "monofs_page_hits{mount=4}": 100.0,
        "monofs_store_requests{mount=3,kind=get,outcome=ok}": 2.0,
        "monofs_store_requests{mount=3,kind=get,outcome=UfsUnreachable}": 1.0,
        "monofs_store_requests{mount=3,kind=list,outcome=ok}": 50.0,
        "monofs_store_seconds_sum{mount=3,kind=get}": 0.5,
    }
    told = mount_use(
        viewer(WorkerStatusAnswer(1, [], counters), WorkerStatusAnswer(2, [], counters), MountNotFound("x"))
    )
    use = told.mounts["/a"]
    assert (use.hits, use.requests, use.failed, use.seconds) == (14.0, 11.0, 2.0, 2.0)
    assert told.missing == ["w2"]
