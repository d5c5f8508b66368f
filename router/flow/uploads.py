"""Input files before and after their task has a row (contract 6, Retention).

Uploads go to the storage under the task before its row. A mark beside them says so, made before the first byte and
removed when the row is there, so that whatever a crash or a refusal leaves is found by `sweep` without looking through
all objects: a mark older than an hour whose task has no row takes its files along. Floor 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.flow.draft import Draft, Folder
from router.flow.runtime import FILES, Runtime
from router.world import LISTED, Vault

ROWLESS_MAX_MS = 3_600_000
FILES_MAX = 16  # of one request (openai-images.md section 3)


def folder_of(draft: Draft, task_id: str) -> Folder:
    """Where the files of a request lie or will lie; `task_id` is the one it gets if nothing lies anywhere yet."""
    return next((one.folder for one in draft.files if one.folder is not None), Folder(draft.tenant, task_id))


def rows_of(draft: Draft, task_id: str) -> Mapping[str, Any]:
    """Write the input of a task's row, which lists the files: where each one is kept, or the caller's URL."""
    if not draft.files:
        return draft.input
    rows = [
        {
            "role": one.role.value,
            "key": None if one.url is not None else one.kept or key_of(task_id, at),
            "url": one.url,
            "content_type": one.content_type,
            "size": one.size if one.content is None else len(one.content),
            "sha256": one.sha256,
        }
        for at, one in enumerate(draft.files)
    ]
    return {**draft.input, FILES: rows}


def key_of(task_id: str, at: int, *, arriving: bool = False) -> str:
    """Where file number `at` of a request is kept; one that comes piece by piece has a number of its own."""
    return f"{task_id}/in/part-{at}" if arriving else f"{task_id}/in/{at}"


async def begin(vault: Vault, folder: Folder, key: str, now: int) -> None:
    """Say that a file is about to be written under `key`, which is one of the folder's."""
    if not folder.keys:
        async with vault.create(_mark_of(folder)) as sink:
            await sink.write(f"{now} {folder.tenant}".encode())
    folder.keys.append(key)


async def settle(vault: Vault, folder: Folder) -> None:
    """The row is there: the files are the task's, and the mark goes."""
    if folder.keys:
        await vault.delete(_mark_of(folder))


async def discard(vault: Vault, folder: Folder) -> None:
    """There is no row and there will be none: the files go, and the mark last."""
    for key in folder.keys:
        await vault.delete(key)
    await settle(vault, folder)


async def keep(vault: Vault, draft: Draft, task_id: str, folder: Folder, now: int) -> None:
    """Write the files that came inside the request or lie with another task; raises `KeyError`, `VaultFull`."""
    for at, upload in enumerate(draft.files):
        if upload.url is not None or upload.kept is not None:
            continue
        content = await vault.read(upload.copy_of) if upload.copy_of is not None else upload.content or b""
        key = key_of(task_id, at)
        await begin(vault, folder, key, now)
        async with vault.create(key) as sink:
            await sink.write(content)


async def sweep(runtime: Runtime) -> int:
    """Remove what was uploaded more than an hour ago for tasks that never got a row; returns how many tasks."""
    vault, removed = runtime.world.vault, 0
    for mark in await vault.listed():
        try:
            at, _, tenant = (await vault.read(mark)).decode().partition(" ")
        except KeyError:
            continue  # another daemon was first
        if int(at) > runtime.now() - ROWLESS_MAX_MS:
            continue
        task_id = mark.removeprefix(LISTED)
        if await runtime.world.store.view(tenant, task_id) is None:
            for n in range(FILES_MAX):
                await vault.delete(key_of(task_id, n))
                await vault.delete(key_of(task_id, n, arriving=True))
            removed += 1
        await vault.delete(mark)
    return removed


def _mark_of(folder: Folder) -> str:
    return f"{LISTED}{folder.task_id}"
