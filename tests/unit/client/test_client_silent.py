"""Workers that died a while ago: named to who asks all, and not waited for."""

import socket

import pytest
from far_side import FarSide

import monofs
from monofs.model.errors import Unreachable
from monofs.rpc.api import WorkerInfo


@pytest.fixture
def far():
    side = FarSide()
    yield side
    side.stop()


def test_a_worker_the_masters_do_not_hear_is_named_and_not_asked(far):
    """Its machine may swallow what is sent to it, and all that is told would wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as gone, monofs.connect(far.address) as fs:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
        far.silent = [WorkerInfo(8, address, live=False)]
        answers = fs.worker_status()
        assert isinstance(answers[address], Unreachable)
        assert "admin report" in str(answers[address])
        assert set(answers) == {far.address, address}
        assert set(fs.worker_status(only_live=True)) == {far.address}
        gone.settimeout(0)
        with pytest.raises(BlockingIOError):
            gone.accept()
