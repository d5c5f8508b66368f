"""Result bytes in a local directory: an object appears whole and durable under its name, or not at all (I15).

Owns the directory's layout and the order of system calls; knows neither tasks nor media types. An object is written
under a working name, synced, renamed and its folder synced; whatever fails on the way leaves nothing behind, and what a
crash leaves is removed by `tidy`. Keys are names of ours, checked all the same, and no symbolic link is followed below
the root (reliability-security cases K7 and S4). Blocking calls run on a few threads of the vault's own. Floor 3.

Layout: `objects/<fold>/<key>` with `/` in the key written as `+`, so that a key is one file and no key can climb.
`fold` is one of 4,096 folders, chosen by a checksum: ids made at the same time share their first digits, and a folder
that holds everything is slow. Only `pending`, which stays small, is a fold of its own, because it must be listed.
`unfinished/` holds the working files.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO, TypeVar

from router.world import LISTED, Sink, VaultFull

T = TypeVar("T")

BATCH_BYTES = 128 << 10
KEY_MAX_CHARS = 200
THREADS = 4
LISTED_FOLD = LISTED.removesuffix("/")
LISTED_MAX = 10_000


class LocalVault:
    """A `Vault` below `root`, which is made if it is missing. `close` it at the end.

    Raises `OSError` when the directory cannot be used. Several daemons may share one root.
    """

    def __init__(self, root: Path, *, threads: int = THREADS) -> None:
        self._tree = Tree(root)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="vault")

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[Sink]:
        """Open a new object, which replaces one of the same key when the block ends without an exception.

        `ValueError` for a key that is none; `VaultFull`, here or from the sink, when there is no room.
        """
        draft = Draft(self._tree, place_of(key))
        sink = _BatchingSink(lambda pieces: self._run(partial(draft.append, pieces)))
        try:
            yield sink
            await self._run(partial(draft.publish, sink.rest()))
        except BaseException:
            # Shielded, so that a second cancellation does not take the clearing up back.
            await asyncio.shield(self._run(draft.discard))
            raise

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read `length` bytes from `start` on, or as many as there are; `KeyError` when there is no such object."""
        if start < 0 or (length is not None and length < 0):
            msg = f"no such piece: start {start}, length {length}"
            raise ValueError(msg)
        try:
            place = place_of(key)
        except ValueError:
            raise KeyError(key) from None
        try:
            return await self._run(partial(self._tree.read, place, start, length))
        except FileNotFoundError:
            raise KeyError(key) from None

    async def size(self, key: str) -> int:
        """Tell how many bytes an object has; `KeyError` when there is none."""
        try:
            return await self._run(partial(self._tree.size, place_of(key)))
        except (ValueError, FileNotFoundError):
            raise KeyError(key) from None

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        try:
            place = place_of(key)
        except ValueError:
            return
        await self._run(partial(self._tree.remove, place))

    async def listed(self) -> tuple[str, ...]:
        """List the keys that begin with `LISTED`, in order of name, at most 10,000."""
        return await self._run(self._tree.list_listed)

    async def tidy(self, before: int) -> int:
        """Remove working files last written before this instant (milliseconds since the epoch); return how many.

        Call it at the start with an instant older than any download, since another daemon may be writing.
        """
        return await self._run(partial(self._tree.sweep, before))

    async def close(self) -> None:
        """Wait for the threads and let go of the directory."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._tree.close()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as broken:
            if means_full(broken):
                raise VaultFull(broken.strerror) from broken
            raise


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object lies below `objects/`."""

    fold: str
    name: str


def place_of(key: str) -> Place:
    """Return where a key lies; `ValueError` when it is none.

    A key is parts of `a-z 0-9 _ . -` between slashes, none of them beginning with a dot, at most 200 characters.
    """
    if len(key) > KEY_MAX_CHARS or _KEY.fullmatch(key) is None:
        msg = f"{key[:KEY_MAX_CHARS]!r} is not a key"
        raise ValueError(msg)
    name = key.replace("/", "+")
    # A folder of its own, which stays small: what is in it is on its way to somewhere else.
    return Place(LISTED_FOLD if key.startswith(LISTED) else f"{zlib.crc32(key.encode()) & 0xFFF:03x}", name)


def means_full(broken: OSError) -> bool:
    """Tell the errors that mean no room: disk, quota, or the largest file that this process may write."""
    return broken.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]*(?:/[a-z0-9_-][a-z0-9_.-]*)*")


# -- writing ----------------------------------------------------------------------------------------------------------


class _BatchingSink:
    """Collects pieces, so that a thread is asked once per batch and not once per piece.

    The last batch waits for the end, which is the same thread's work: most objects take one call.
    """

    def __init__(self, append: Callable[[list[bytes]], Awaitable[None]]) -> None:
        self._append = append
        self._pieces: list[bytes] = []
        self._size = 0

    async def write(self, chunk: bytes | memoryview) -> None:
        """Append. The caller may change what a memoryview shows as soon as this returns."""
        if self._size >= BATCH_BYTES:
            await self._append(self.rest())
        self._pieces.append(chunk if isinstance(chunk, bytes) else bytes(chunk))
        self._size += len(self._pieces[-1])

    def rest(self) -> list[bytes]:
        """Give away what is collected."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces


class Draft:
    """The file behind one new object. Its methods run on threads, one at a time, and do nothing after `discard`:

    a cancelled coroutine cannot take back a call that a thread has begun.
    """

    def __init__(self, tree: Tree, place: Place) -> None:
        self._tree = tree
        self._place = place
        self._lock = threading.Lock()
        self._file: int | None = None
        self._working_name: str | None = None
        self._published = False
        self._discarded = False

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write at the end of the working file."""
        with self._lock:
            if not self._discarded:
                self._write(pieces)

    def publish(self, pieces: Sequence[bytes] = ()) -> None:
        """Write the last pieces, make the bytes durable, then visible, then the name durable."""
        with self._lock:
            if self._discarded:
                return
            os.fsync(self._write(pieces))
            with self._tree.fold_for_writing(self._place) as fold:
                assert self._working_name is not None
                os.rename(self._working_name, self._place.name, src_dir_fd=self._tree.unfinished, dst_dir_fd=fold)
                self._published = True
                os.fsync(fold)
            self._close()

    def discard(self) -> None:
        """Leave nothing."""
        with self._lock:
            self._discarded = True
            self._close()
            if self._published:
                self._tree.remove(self._place)
            elif self._working_name is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._working_name, dir_fd=self._tree.unfinished)

    def _write(self, pieces: Sequence[bytes]) -> int:
        if self._file is None:
            self._file, self._working_name = self._tree.open_working_file()
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


# -- the directory ----------------------------------------------------------------------------------------------------

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WORKING_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting, should somebody have put a pipe in the place of an object.
_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Tree:
    """The directory as the threads see it: every name is opened from an open folder, never by a path."""

    def __init__(self, root: Path) -> None:
        for folder in (root, root / "objects", root / "unfinished"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(root) as above:
            os.fsync(above)
        self.objects = os.open(root / "objects", _FOLDER)
        self.unfinished = os.open(root / "unfinished", _FOLDER)
        self._numbers = count()
        self._durable_folds: set[str] = set()

    def close(self) -> None:
        """Let go of the folders."""
        os.close(self.objects)
        os.close(self.unfinished)

    def open_working_file(self) -> tuple[int, str]:
        """Make a new file; return its descriptor and its name."""
        while True:
            name = f"{os.getpid()}-{next(self._numbers)}"
            # The name is taken where a former life or another machine has had the same process number.
            with suppress(FileExistsError):
                return os.open(name, _WORKING_FILE, 0o600, dir_fd=self.unfinished), name

    @contextmanager
    def fold_for_writing(self, place: Place) -> Iterator[int]:
        """Open the folder of an object, durably made if it is new."""
        if place.fold not in self._durable_folds:
            with suppress(FileExistsError):
                os.mkdir(place.fold, 0o700, dir_fd=self.objects)
            # Also when it exists: another thread may have made it and not yet have come to this line.
            os.fsync(self.objects)
            self._durable_folds.add(place.fold)
        with _opened(place.fold, self.objects) as fold:
            yield fold

    def read(self, place: Place, start: int, length: int | None) -> bytes:
        """Read a piece of an object; `FileNotFoundError` when there is none."""
        with self._look(place) as source:
            status = os.fstat(source.fileno())
            rest = max(status.st_size - start, 0)
            source.seek(start)
            return source.read(rest if length is None else min(length, rest))

    def size(self, place: Place) -> int:
        """Tell how many bytes an object has; `FileNotFoundError` when there is none."""
        with self._look(place) as source:
            return os.fstat(source.fileno()).st_size

    def _look(self, place: Place) -> BinaryIO:
        """Open an object for reading, never through a link."""
        try:
            with _opened(place.fold, self.objects) as fold:
                file = os.open(place.name, _OBJECT, dir_fd=fold)
        except OSError as broken:
            if broken.errno in {errno.ELOOP, errno.ENOTDIR}:  # a symbolic link, which nobody of ours has made
                raise FileNotFoundError(place.name) from None
            raise
        source = os.fdopen(file, "rb")
        if not stat.S_ISREG(os.fstat(file).st_mode):
            source.close()
            raise FileNotFoundError(place.name)
        return source

    def remove(self, place: Place) -> None:
        """Remove an object, durably; nothing happens when there is none."""
        with suppress(FileNotFoundError), _opened(place.fold, self.objects) as fold:
            os.unlink(place.name, dir_fd=fold)
            os.fsync(fold)

    def list_listed(self) -> tuple[str, ...]:
        """List the keys of the one folder that holds those alone."""
        with suppress(FileNotFoundError), _opened(LISTED_FOLD, self.objects) as fold:
            with os.scandir(fold) as entries:
                names = sorted(entry.name for entry in entries)
            return tuple(name.replace("+", "/") for name in names[:LISTED_MAX])
        return ()

    def sweep(self, before: int) -> int:
        """Remove working files last written before this instant; return how many."""
        removed = 0
        with os.scandir(self.unfinished) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime_ns < before * 1_000_000:
                        os.unlink(entry.name, dir_fd=self.unfinished)
                        removed += 1
        return removed


@contextmanager
def _opened(folder: str | Path, above: int | None = None) -> Iterator[int]:
    descriptor = os.open(folder, _FOLDER if above is not None else _FOLDER & ~os.O_NOFOLLOW, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
