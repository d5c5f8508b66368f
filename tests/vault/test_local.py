"""The local vault: whole objects or none, whatever fails, and no way out of its directory."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from router.vault.local import BATCH_BYTES, Draft, LocalVault, Tree, means_full, place_of
from router.world import VaultFull
from tests.waiting import poll_until_sync

END_OF_TIME_MS = 2**43
KEY = "task_0199aabbccdd/1/0"


@asynccontextmanager
async def vault_in(root):
    vault = LocalVault(root)
    try:
        yield vault
    finally:
        await vault.close()


@pytest.fixture
async def vault(tmp_path):
    async with vault_in(tmp_path / "vault") as made:
        yield made


async def put(vault, key, *pieces):
    async with vault.create(key) as sink:
        for piece in pieces:
            await sink.write(piece)


def list_files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def file_of(root, key):
    place = place_of(key)
    return root / "objects" / place.fold / place.name


async def test_what_was_written_is_read_back_also_by_the_next_life(tmp_path):
    pieces = [b"head", b"x" * (3 * BATCH_BYTES), memoryview(b"tail"), b""]
    async with vault_in(tmp_path) as first:
        await put(first, KEY, *pieces)
    async with vault_in(tmp_path) as second:
        assert await second.read(KEY) == b"".join(pieces)

    assert list_files(tmp_path) == [file_of(tmp_path, KEY).relative_to(tmp_path).as_posix()]


@pytest.mark.parametrize(
    ("start", "length", "piece"),
    [(0, None, b"0123456789"), (3, 4, b"3456"), (8, 10, b"89"), (10, 5, b""), (99, None, b""), (4, 0, b"")],
)
async def test_a_piece_of_an_object_can_be_read(vault, start, length, piece):
    await put(vault, KEY, b"0123456789")

    assert await vault.read(KEY, start, length) == piece


@pytest.mark.parametrize(("start", "length"), [(-1, None), (0, -1)])
async def test_a_piece_before_the_beginning_is_a_mistake(vault, start, length):
    with pytest.raises(ValueError, match="no such piece"):
        await vault.read(KEY, start, length)


async def test_an_empty_object_exists(vault):
    await put(vault, KEY)

    assert await vault.read(KEY) == b""


async def test_an_object_is_invisible_until_its_block_ends(vault):
    async with vault.create(KEY) as sink:
        await sink.write(b"x" * (2 * BATCH_BYTES))
        with pytest.raises(KeyError):
            await vault.read(KEY)

    assert len(await vault.read(KEY)) == 2 * BATCH_BYTES


async def test_the_last_of_two_objects_of_one_key_stays(vault):
    await put(vault, KEY, b"first")
    await put(vault, KEY, b"second")

    assert await vault.read(KEY) == b"second"


async def test_what_a_view_shows_later_does_not_matter(vault):
    buffer = bytearray(b"before")
    async with vault.create(KEY) as sink:
        await sink.write(memoryview(buffer))
        buffer[:] = b"after!"

    assert await vault.read(KEY) == b"before"


async def test_many_objects_are_written_at_once(vault):
    contents = {f"task_{n:02}/1/0": bytes([n]) * 300_000 for n in range(40)}
    await asyncio.gather(*(put(vault, key, *[content[:100_000]] * 3) for key, content in contents.items()))

    for key, content in contents.items():
        assert await vault.read(key) == content


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(vault):
    await put(vault, KEY, b"x")
    await vault.delete(KEY)
    await vault.delete(KEY)

    with pytest.raises(KeyError):
        await vault.read(KEY)


@pytest.mark.parametrize("size", [10, 3 * BATCH_BYTES])
async def test_a_block_that_fails_leaves_nothing(tmp_path, size):
    async def fail(vault):
        async with vault.create(KEY) as sink:
            await sink.write(b"x" * size)
            raise RuntimeError("upstream")

    async with vault_in(tmp_path) as vault:
        with pytest.raises(RuntimeError, match="upstream"):
            await fail(vault)

        assert list_files(tmp_path) == []


async def test_a_cancelled_block_leaves_nothing_even_in_the_middle_of_a_write(tmp_path):
    async with vault_in(tmp_path) as vault:
        for turn in range(30):
            write = asyncio.create_task(put(vault, KEY, *[b"x" * BATCH_BYTES] * 3))
            for _ in range(turn):
                await asyncio.sleep(0)
            write.cancel()
            ended = await asyncio.gather(write, return_exceptions=True)

            assert isinstance(ended[0], asyncio.CancelledError)
            assert list_files(tmp_path) == []


@pytest.mark.parametrize("begun", [True, False])
def test_a_thread_that_comes_to_its_call_after_the_block_was_given_up_does_nothing(tmp_path, begun):
    tree = Tree(tmp_path)
    draft = Draft(tree, place_of(KEY))
    if begun:
        draft.append([b"x"])
    draft.discard()
    draft.append([b"y"])
    draft.publish()
    tree.close()

    assert list_files(tmp_path) == []


async def test_an_object_that_cannot_get_its_name_leaves_nothing(tmp_path):
    async with vault_in(tmp_path) as vault:
        file_of(tmp_path, KEY).mkdir(parents=True)

        with pytest.raises(IsADirectoryError):
            await put(vault, KEY, b"x")

        assert list_files(tmp_path) == []


@contextmanager
def largest_file(size):
    """Let no file of this process grow beyond `size`: the nearest thing to a full disk that needs no privilege."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_an_object_without_room_is_refused_and_leaves_nothing(tmp_path):
    async with vault_in(tmp_path) as vault:
        with largest_file(2 * BATCH_BYTES), pytest.raises(VaultFull):
            await put(vault, KEY, *[b"x" * BATCH_BYTES] * 3)

        assert list_files(tmp_path) == []

        await put(vault, KEY, b"room again")
        assert await vault.read(KEY) == b"room again"


@pytest.mark.parametrize(("number", "full"), [("ENOSPC", True), ("EDQUOT", True), ("EFBIG", True), ("EIO", False)])
def test_no_room_is_told_from_other_trouble(number, full):
    assert means_full(OSError(getattr(errno, number), "x")) is full


NOT_KEYS = [
    "",
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "a/./b",
    "a//b",
    "a/",
    "%2e%2e/secret",
    "a\\b",
    "a\0b",
    "a b",
    "a\n",
    "A",
    "é",
    ".hidden",
    "a+b",
    "x" * 201,
]


@pytest.mark.parametrize("key", NOT_KEYS)
async def test_what_is_not_a_key_is_never_looked_for(vault, key):
    with pytest.raises(KeyError):
        await vault.read(key)
    with pytest.raises(ValueError, match="is not a key"):
        await put(vault, key, b"x")

    assert await vault.delete(key) is None


async def test_no_symbolic_link_is_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / place_of(KEY).name).write_bytes(b"secret")
    root = tmp_path / "vault"
    async with vault_in(root) as vault:
        await put(vault, KEY, b"x")
        linked = file_of(root, KEY)
        linked.unlink()
        linked.symlink_to(secret / linked.name)
        with pytest.raises(KeyError):
            await vault.read(KEY)

        linked.unlink()
        linked.parent.rmdir()
        linked.parent.symlink_to(secret, target_is_directory=True)
        with pytest.raises(KeyError):
            await vault.read(KEY)
        with pytest.raises(OSError, match="Not a directory"):
            await put(vault, KEY, b"overwritten")
        with pytest.raises(OSError, match="Not a directory"):
            await vault.delete(KEY)

        assert (secret / place_of(KEY).name).read_bytes() == b"secret"


async def test_a_pipe_in_the_place_of_an_object_is_no_object(tmp_path):
    async with vault_in(tmp_path) as vault:
        await put(vault, KEY, b"x")
        file_of(tmp_path, KEY).unlink()
        os.mkfifo(file_of(tmp_path, KEY))

        with pytest.raises(KeyError):
            await vault.read(KEY)


async def test_only_the_owner_may_read(tmp_path):
    async with vault_in(tmp_path / "vault") as vault:
        await put(vault, KEY, b"x")

    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "vault").rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert file_of(tmp_path / "vault", KEY).stat().st_mode & 0o777 == 0o600


def test_objects_spread_over_folders():
    folds = [place_of(f"task_0199aabbccdd7{n:05x}/1/0").fold for n in range(40_000)]

    assert max(folds.count(fold) for fold in set(folds[:200])) < 60
    assert len(set(folds)) > 4000


def test_two_keys_never_share_a_file():
    assert place_of("a/b-c") != place_of("a-b/c")
    with pytest.raises(ValueError, match="is not a key"):
        place_of("a+b")


async def test_only_old_working_files_are_swept(tmp_path):
    async with vault_in(tmp_path) as vault:
        await put(vault, KEY, b"x")
        for name, written_s in (("1-0", 1_000), ("1-1", 5_000)):
            left = tmp_path / "unfinished" / name
            left.write_bytes(b"half")
            os.utime(left, (written_s, written_s))

        assert await vault.tidy(3_000_000) == 1
        assert list_files(tmp_path) == [
            file_of(tmp_path, KEY).relative_to(tmp_path).as_posix(),
            "unfinished/1-1",
        ]


WRITER = """
import asyncio, sys
from pathlib import Path
from router.vault.local import BATCH_BYTES, LocalVault

async def write():
    vault = LocalVault(Path(sys.argv[1]))
    async with vault.create(sys.argv[2]) as sink:
        while True:
            await sink.write(b"x" * BATCH_BYTES)
            await asyncio.sleep(0.01)

asyncio.run(write())
"""


def test_a_writer_killed_halfway_leaves_no_object_and_the_next_life_tidies_up(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), KEY], cwd=Path(__file__).parents[2])
    try:
        unfinished = tmp_path / "unfinished"
        poll_until_sync(
            lambda: unfinished.is_dir() and [file for file in unfinished.iterdir() if file.stat().st_size],
            "the first bytes",
        )
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    async def next_life():
        async with vault_in(tmp_path) as vault:
            with pytest.raises(KeyError):
                await vault.read(KEY)
            assert await vault.tidy(END_OF_TIME_MS) == 1
            await put(vault, KEY, b"fetched again")
            return sha256(await vault.read(KEY)).hexdigest()

    assert asyncio.run(next_life()) == sha256(b"fetched again").hexdigest()
    assert len(list_files(tmp_path)) == 1


async def test_the_size_of_an_object_is_told_and_one_that_is_not_there_is_a_key_error(tmp_path):
    vault = LocalVault(tmp_path)
    async with vault.create("task_1/1/0") as sink:
        await sink.write(b"12345")

    assert await vault.size("task_1/1/0") == 5
    for missing in ("task_1/1/1", "../outside"):
        with pytest.raises(KeyError):
            await vault.size(missing)
    await vault.close()


async def test_what_is_pending_can_be_listed_and_nothing_else(tmp_path):
    vault = LocalVault(tmp_path / "vault")
    try:
        assert await vault.listed() == ()
        for key in ("pending/task_2", "pending/task_1", "task_1/in/0", "pendingly/1"):
            async with vault.create(key) as sink:
                await sink.write(b"x")
        assert await vault.listed() == ("pending/task_1", "pending/task_2")
        await vault.delete("pending/task_1")
        assert await vault.listed() == ("pending/task_2",)
        assert await vault.read("pending/task_2") == b"x"
    finally:
        await vault.close()
