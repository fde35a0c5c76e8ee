"""Data loaders: worker processes, forked or spawned, that read samples of a dataset which was made, and used, in the program that started them.

Once with torch's ``DataLoader``, where torch is installed, and always with ``ProcessPoolExecutor``, which hands the dataset on in the same two ways: as it lies in
memory, with connections, descriptors and open files, or as a pickle. docs/python.md has the short form of the dataset.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import multiprocessing
import random
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import monofs
from monofs.fsspec import MonofsFileSystem
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
SIZES = [0, 1, 4096, 5003, 100_001, 300_007]
"""Of samples: from none to more than travels together with others."""
SAMPLES, SHARDS, BATCH = 192, 4, 16

Sample = tuple[int, dict[str, Any]]
"""A sample's number, and its bytes as each way to read gave them, in memory that nobody copied."""


class Samples:
    """Samples in shards, each read in every way there is."""

    def __init__(self, url: str, index: list[tuple[str, int, int]]) -> None:
        self.fs, _ = fsspec.url_to_fs(url)
        self.client = monofs.connect(self.fs.client.masters[0])
        self.index = index
        self.held = {path: self.fs.open(path) for path, _, _ in index}
        """Opened in the program, read in its workers."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, numbers: list[int]) -> list[Sample]:
        """A batch."""
        wanted = [self.index[number] for number in numbers]
        paths, begins, lengths = (list(each) for each in zip(*wanted, strict=True))
        ends = [begin + length for begin, length in zip(begins, lengths, strict=True)]
        ways = {
            "read_many": self.client.read_many(wanted),
            "submit_many": [each.result(60) for each in self.client.submit_many(wanted)],
            "cat_ranges": self.fs.cat_ranges(paths, begins, ends, on_error="raise"),
            "open": [self._opened(*each) for each in wanted],
            "held": [self.held[path].pread(begin, length) for path, begin, length in wanted],
            "mapped": [self._mapped(*each) for each in wanted],
        }
        arrays = {way: [np.frombuffer(data, "u1") for data in found] for way, found in ways.items()}
        arrays["filled"] = [self._filled(*each) for each in wanted]
        return [(number, {way: found[at] for way, found in arrays.items()}) for at, number in enumerate(numbers)]

    def __getitem__(self, number: int) -> Sample:
        """One, for torch before 2.0."""
        return self.__getitems__([number])[0]

    def _opened(self, path: str, begin: int, length: int) -> bytes:
        with self.fs.open(path) as file:
            file.seek(begin)
            data: bytes = file.read(length)
        return data

    def _mapped(self, path: str, begin: int, length: int) -> memoryview:
        with self.client.open(path) as file:
            try:
                mapped = file.mmap()
            except io.UnsupportedOperation:  # over TCP
                return memoryview(file.pread(begin, length))
            return memoryview(mapped)[begin : begin + length]

    def _filled(self, path: str, begin: int, length: int) -> Any:
        array = np.empty(length, "u1")
        assert self.held[path].pread_into(begin, array) == length
        return array


class Lake:
    """A node, shards of samples in its store, and what each sample is."""

    def __init__(self, node: ServedNode, directory: Path) -> None:
        chance = random.Random(1)
        self.node, self.url = node, f"monofs://{node.doors['rpc']}/shards"
        shards = [bytearray() for _ in range(SHARDS)]
        self.index: list[tuple[str, int, int]] = []
        self.samples: list[bytes] = []
        for _ in range(SAMPLES):
            shard, data = chance.randrange(SHARDS), chance.randbytes(chance.choice(SIZES))
            self.index.append((f"/shards/{shard}", len(shards[shard]), len(data)))
            self.samples.append(data)
            shards[shard] += data
        for number, shard in enumerate(shards):
            (directory / str(number)).write_bytes(shard)

    def check(self, batches: Iterable[list[Sample]]) -> None:
        """Every sample has come once, and all ways to read it gave its bytes."""
        come = list(itertools.chain.from_iterable(batches))
        assert sorted(number for number, _ in come) == list(range(SAMPLES))
        for number, ways in come:
            assert len(ways) == 7
            wrong = [way for way, array in ways.items() if np.asarray(array).tobytes() != self.samples[number]]
            assert wrong == [], f"sample {number}"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    store = tmp_path_factory.mktemp("store")
    with ServedNode(str(tmp_path_factory.mktemp("node") / "home")) as node:
        made = Lake(node, store)
        with node.connect() as fs:
            fs.mount_add("/shards", f"file://{store}")
        yield made


@pytest.fixture
def samples(lake: Lake) -> Iterator[Samples]:
    """The dataset, with connections and descriptors in use before any worker process begins, and while they do."""
    over, failures = threading.Event(), []
    with lake.node.connect() as fs:
        fs.free("/shards", recursive=True, force=True)
    made = Samples(lake.url, lake.index)

    def read_on() -> None:
        try:
            while not over.wait(0.1):
                lake.check([made.__getitems__(list(range(SAMPLES)))])
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    yield made
    over.set()
    reader.join(60)
    assert not reader.is_alive()
    assert failures == []
    for file in made.held.values():
        file.close()
    made.client.close()
    made.fs.client.close()
    MonofsFileSystem.clear_instance_cache()


METHODS = ["fork", "fork, over TCP", "spawn"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if "TCP" in request.param:
        monkeypatch.setattr("monofs.client.cluster.host_id", lambda: "another machine")
    return str(request.param).partition(",")[0]


_dataset: Samples


def _begin(dataset: Samples) -> None:
    global _dataset
    _dataset = dataset


def _fetch(numbers: list[int]) -> list[Sample]:
    return _dataset.__getitems__(numbers)


def test_worker_processes_read_what_the_program_that_started_them_reads(
    lake: Lake, method: str, samples: Samples
) -> None:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context, initializer=_begin, initargs=(samples,)) as pool:
        for seed in range(2):
            order = random.Random(seed).sample(range(SAMPLES), SAMPLES)
            lake.check(pool.map(_fetch, [order[at : at + BATCH] for at in range(0, SAMPLES, BATCH)]))


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed; CONTRIBUTING.md says why"
)


def _as_tensors(samples: list[Sample]) -> list[Sample]:
    """In the worker process: memory that may be written becomes a tensor, again without a copy."""
    import torch

    for _, ways in samples:
        if len(ways["filled"]):  # torch refuses none
            ways["filled"] = torch.frombuffer(ways["filled"], dtype=torch.uint8)
    return samples


@needs_torch
def test_torch_loads_batches_in_worker_processes(lake: Lake, method: str, samples: Samples) -> None:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        collate_fn=_as_tensors,
        multiprocessing_context=method,
        persistent_workers=method == "spawn",  # forked ones begin anew with each epoch
    )
    for _ in range(2):
        lake.check(loader)


@needs_torch
def test_the_example_of_the_documentation_works(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.__version__ < "2":
        pytest.skip("it says that it is for torch 2.0 and later")
    monkeypatch.setenv("MONOFS_MASTERS", lake.node.doors["rpc"])
    page = Path(__file__).parents[2].joinpath("docs", "python.md").read_text()
    (example,) = re.findall(r"### Feed torch's `DataLoader`\n\n```python\n(.*?)```", page, re.DOTALL)
    large = [number for number, data in enumerate(lake.samples) if len(data) >= 4000]
    come: list[Any] = []
    exec(example, {"index": [(*lake.index[number][:2], 4000) for number in large], "train": come.extend})
    assert sorted(each.numpy().tobytes() for each in come) == sorted(lake.samples[number][:4000] for number in large)
