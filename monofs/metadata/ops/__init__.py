"""The operations, one a file: each decides one kind of entry against the state before it.

An operation fills the draft it is given and returns its result. Raising a ``MonofsError`` refuses: the draft is thrown away. A
``MonofsError`` *returned* is a result like any other, and what the draft holds stands. Operations are deterministic: no clock, no
randomness, no set iteration, no setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monofs.metadata.draft import Draft
from monofs.metadata.entry_kinds import EntryKind
from monofs.metadata.ops.add_mount import add_mount
from monofs.metadata.ops.adopt_page import adopt_page
from monofs.metadata.ops.adopt_path import adopt_path
from monofs.metadata.ops.assign_slots import assign_slots
from monofs.metadata.ops.begin_copy import begin_copy
from monofs.metadata.ops.begin_delete import begin_delete
from monofs.metadata.ops.begin_make_directory import begin_make_directory
from monofs.metadata.ops.begin_rename import begin_rename
from monofs.metadata.ops.begin_write import begin_write, publish, record_upload, reopen
from monofs.metadata.ops.create import create
from monofs.metadata.ops.delete import delete
from monofs.metadata.ops.end import abandon, end
from monofs.metadata.ops.expire_clients import expire_clients
from monofs.metadata.ops.forget import forget
from monofs.metadata.ops.free import free
from monofs.metadata.ops.initialize import initialize
from monofs.metadata.ops.jobs import add_job, update_job
from monofs.metadata.ops.make_directory import make_directory
from monofs.metadata.ops.moved import moved
from monofs.metadata.ops.register_worker import register_worker
from monofs.metadata.ops.remove_below import remove_below
from monofs.metadata.ops.remove_mount import remove_mount
from monofs.metadata.ops.remove_tree import remove_tree
from monofs.metadata.ops.rename import rename
from monofs.metadata.ops.rename_tree import rename_tree
from monofs.metadata.ops.set_attributes import set_attributes
from monofs.metadata.ops.set_bucket import set_bucket
from monofs.metadata.ops.set_level import set_level
from monofs.metadata.ops.set_pin import set_pin
from monofs.metadata.ops.set_policy import set_policy
from monofs.metadata.ops.set_ttl import set_ttl
from monofs.metadata.ops.tokens import add_token, remove_token, rotate_key
from monofs.metadata.ops.touch import touch
from monofs.metadata.ops.trim_feed import trim_feed
from monofs.metadata.ops.update_mount import update_mount

Operation = Callable[[Draft, Any], Any]

OPERATIONS: dict[int, Operation] = {
    EntryKind.INITIALIZE: initialize,
    EntryKind.SET_LEVEL: set_level,
    EntryKind.EXPIRE_CLIENTS: expire_clients,
    EntryKind.ADD_MOUNT: add_mount,
    EntryKind.UPDATE_MOUNT: update_mount,
    EntryKind.REMOVE_MOUNT: remove_mount,
    EntryKind.ADOPT_PAGE: adopt_page,
    EntryKind.ADOPT_PATH: adopt_path,
    EntryKind.MAKE_DIRECTORY: make_directory,
    EntryKind.CREATE: create,
    EntryKind.DELETE: delete,
    EntryKind.RENAME: rename,
    EntryKind.SET_PIN: set_pin,
    EntryKind.FREE: free,
    EntryKind.TRIM_FEED: trim_feed,
    EntryKind.REGISTER_WORKER: register_worker,
    EntryKind.REMOVE_BELOW: remove_below,
    EntryKind.ASSIGN_SLOTS: assign_slots,
    EntryKind.BEGIN_WRITE: begin_write,
    EntryKind.PUBLISH: publish,
    EntryKind.RECORD_UPLOAD: record_upload,
    EntryKind.BEGIN_DELETE: begin_delete,
    EntryKind.BEGIN_RENAME: begin_rename,
    EntryKind.BEGIN_MAKE_DIRECTORY: begin_make_directory,
    EntryKind.BEGIN_COPY: begin_copy,
    EntryKind.END: end,
    EntryKind.ABANDON: abandon,
    EntryKind.REMOVE_TREE: remove_tree,
    EntryKind.RENAME_TREE: rename_tree,
    EntryKind.MOVED: moved,
    EntryKind.REOPEN: reopen,
    EntryKind.ADD_JOB: add_job,
    EntryKind.UPDATE_JOB: update_job,
    EntryKind.SET_POLICY: set_policy,
    EntryKind.SET_TTL: set_ttl,
    EntryKind.FORGET: forget,
    EntryKind.TOUCH: touch,
    EntryKind.SET_ATTRIBUTES: set_attributes,
    EntryKind.ADD_TOKEN: add_token,
    EntryKind.REMOVE_TOKEN: remove_token,
    EntryKind.ROTATE_KEY: rotate_key,
    EntryKind.SET_BUCKET: set_bucket,
}
