"""The thread of a storage directory."""

import threading

from monofs.tiering.keeper import Keeper


def test_the_file_system_is_looked_at_however_many_jobs_come():
    ticked = threading.Event()
    keeper = Keeper("busy", ticked.set)

    def job():
        if not ticked.wait(0.01):
            keeper.submit(job)

    keeper.submit(job)
    keeper.start()
    assert ticked.wait(60)
    assert keeper.stop(60)
