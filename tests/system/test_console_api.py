"""`/api/v1` is what its OpenAPI document says: the document is valid, and what a real node answers conforms to it, also to requests made from the document at random."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from monofs.testing.nodes import ServedNode
from monofs.testing.visitors import Visitor
from monofs.web.routes import PREFIX

SEED = 20_261_129
EXAMPLES = 5
"""Of each operation."""
OURS = (501, 502)
"""What this node does not do, as alone as it is, and what a store that was made up does not answer."""
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    home = tmp_path_factory.mktemp("described")
    (home / "lake").mkdir()
    (home / "lake" / "a file").write_bytes(b"data")
    with ServedNode(str(home / "home"), sets=["security.authentication=required"]) as served:
        with served.connect(cluster_secret_file=f"{served.home}/cluster.secret") as fs:
            fs.mount_add("/lake", f"file://{home}/lake")
            fs.read("/lake/a file")
        yield served


@pytest.fixture(scope="module")
def token(node: ServedNode) -> str:
    done = node.cli(
        "--cluster-secret-file", f"{node.home}/cluster.secret", "token", "add", "random", "--rights", "read,write,admin"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


@pytest.fixture(scope="module")
def document(node: ServedNode) -> dict[str, object]:
    told: dict[str, object] = Visitor(node.doors["console"]).ask("GET", f"{PREFIX}/openapi.json").json()
    return told


def test_the_document_is_valid(document):
    validate(document)
    assert document["openapi"].startswith("3.1")
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)), "each operation has a name of its own"
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"], "each operation says what it does"
            assert all(each["description"] for each in operation["parameters"])


@pytest.fixture(scope="module")
def described(document, node):
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = node.doors["console"]
    return schema


def test_what_a_node_answers_is_what_the_document_says(described, token):
    """Random requests, well-formed and not: no answer that is not described, and no failure of the server that is not its own to give."""
    tried = []
    for result in described.get_all_operations():
        operation = result.ok()

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def conforms(case):
            tried.append(case.operation.label)
            if isinstance(case.body, dict) and case.operation.path.endswith("/mounts"):
                case.body["dry_run"] = True  # nothing of this machine is mounted at random
            if case.operation.path.endswith("/tokens/{number}"):
                case.path_parameters["number"] = 4711  # not the one that asks
            answer = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=30)
            assert answer.status_code < 500 or answer.status_code in OURS, (case.operation.label, answer.text)
            case.validate_response(answer, checks=CHECKS)

        given(case=operation.as_strategy())(conforms)()
    assert len(set(tried)) == sum(1 for _ in described.get_all_operations())
