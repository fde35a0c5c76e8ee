"""Changes of names asked of a master that has a store below /lake, and a store that does not answer them."""

from __future__ import annotations

from typing import Any

from master_house import House

from monofs.config.schema import Config, MasterConfig
from monofs.model.errors import UfsFailed
from monofs.rpc import api
from monofs.rpc.api import Method

PATIENT = Config(master=MasterConfig(busy_wait_s=30.0))
ACTS = ("delete", "rename", "copy", "make_directory", "put", "remove_directory")


def ask(house: House, method: Method, *arguments: Any, **named: Any) -> Any:
    kinds = {
        Method.DELETE: api.DeleteRequest,
        Method.RENAME: api.RenameRequest,
        Method.COPY: api.CopyRequest,
        Method.MAKE_DIRECTORY: api.MakeDirectoryRequest,
        Method.TOUCH: api.TouchRequest,
        Method.REMOVE_TREE: api.RemoveTreeRequest,
    }
    return house.ask(method, kinds[method](*arguments, **named))


def is_open(house: House) -> bool:
    return bool(house.ask(Method.INTENT_LIST, api.Empty()).intents)


class Silence:
    """The store does (or does not do) what it is asked, and never answers."""

    def __init__(self, house: House, *, acts: bool, names: tuple[str, ...] = ACTS) -> None:
        self.ended = False
        looks = dict.fromkeys(("look", "head"), self)
        mute = dict.fromkeys(names, self)
        house.watch.before, house.watch.after = (looks, mute) if acts else (looks | mute, {})
        self._house = house

    def __call__(self) -> None:
        if not self.ended:
            raise UfsFailed("no answer")

    def end(self, *, restart: bool) -> None:
        self.ended = True
        self._house.watch.before, self._house.watch.after = {}, {}
        if restart:
            self._house.restart()
        self._house.resolve()
