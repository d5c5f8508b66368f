"""What is measured: `pointsman serve` as it is shipped (keys demanded, log written), and the bare proxy beside it.

The daemon's models differ in what they ask of the upstream: `small` and `large` are answered at once, `parked` has one
place, and what holds it is never answered. A task for `parked` is accepted, made durable and queued like any other, and
nothing more happens to it: that is the price of a submit alone. It is of the lowest class, so that tens of thousands
of them do not fill the queue's window for the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.programs import CannotMeasure, Places, ask, await_line, pinned, running
from tests.postgres import running_server

KEY = "an-admin-key-for-the-bench"
HEADERS = {"Authorization": f"Bearer {KEY}"}
DATABASE_VARIABLE = "POINTSMAN_DATABASE_URL"
IMAGES = "/v1/images/generations"
PROVIDER_PLACES = 64  # as many attempts at once as the load has connections
PROMPT = "A lighthouse on a rocky shore at dusk, gulls in the wind, a small boat that makes for the harbour."

CONFIG = """
version: 1
defaults: {{queue: {{max_pending: 10000000, per_tenant: 10000000}}}}
providers:
  small:  {{adapter: openai, base_url: "{upstream}/v1", api_key: "key-of-small", max_concurrency: {places}}}
  large:  {{adapter: openai, base_url: "{upstream}/large/v1", api_key: "key-of-large", max_concurrency: {places}}}
  parked: {{adapter: openai, base_url: "{upstream}/never/v1", api_key: "key-of-parked", max_concurrency: 1}}
models:
  small: {{kind: image, targets: [{{provider: small, model: gpt-image-2, price: {{image: {{default: 0.01}}}}}}]}}
  large: {{kind: image, targets: [{{provider: large, model: gpt-image-2, price: {{image: {{default: 0.01}}}}}}]}}
  parked: {{kind: image, targets: [{{provider: parked, model: gpt-image-2, price: {{image: {{default: 0.01}}}}}}]}}
"""


@dataclass(frozen=True, slots=True)
class Database:
    """Where tasks are kept. `url` None: a file of SQLite. `pid`: the server's process, None where it is not ours."""

    url: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers. `first_s`: from the start of its process to the end of its first picture."""

    url: str
    pid: int
    first_s: float


def write_image(model: str, **more: object) -> bytes:
    """The body of an image call."""
    return json.dumps({"model": model, "prompt": PROMPT, "size": "1024x1024", "n": 1, **more}).encode()


def write_task(model: str, **more: object) -> bytes:
    """The body of a native submit."""
    said = {"prompt": PROMPT, "size": "1024x1024", "n": 1}
    return json.dumps({"kind": "image.generation", "model": model, "input": said, **more}).encode()


@contextmanager
def serving_upstream(folder: Path, places: Places) -> Iterator[str]:
    """Start the upstream; yields its address."""
    out = folder / "upstream.out"
    with running([str(folder / "upstream")], out, cpus=places.others) as process:
        yield f"http://127.0.0.1:{await_line(process, out, str.strip)}"


@contextmanager
def serving_bare(folder: Path, upstream: str, places: Places) -> Iterator[Serving]:
    """Start the bare proxy and wait for its first picture."""
    out, began = folder / "bare.out", time.monotonic()
    with running([sys.executable, "-m", "tests.bench.bare", upstream], out, cpus=places.server) as process:
        url = f"http://127.0.0.1:{await_line(process, out, str.strip)}"
        _demand_picture(url, {})
        yield Serving(url, process.pid, time.monotonic() - began)


@contextmanager
def open_database(store: str, places: Places) -> Iterator[Database]:
    """An empty database of a store: for PostgreSQL the one in POINTSMAN_DATABASE_URL, else a server of our own."""
    said = os.environ.get(DATABASE_VARIABLE, "")
    if store == "sqlite":
        yield Database(None, None)
    elif said.startswith("postgres"):
        yield Database(said, None)
    else:
        with pinned(places.others), running_server() as server:
            yield Database(server.create(), server.pid)


@contextmanager
def serving_product(folder: Path, upstream: str, database: Database, places: Places) -> Iterator[Serving]:
    """Start the daemon with a data directory in `folder` and wait for its first picture."""
    config, out = folder / "config" / "routing.yaml", folder / "daemon.out"
    config.parent.mkdir(parents=True)  # of its own: whatever is written beside it makes the daemon read it again
    config.write_text(CONFIG.format(upstream=upstream, places=PROVIDER_PLACES))
    environ = {
        "POINTSMAN_CONFIG": str(config),
        "POINTSMAN_DATA_DIR": str(folder / "data"),
        "POINTSMAN_PORT": "0",
        "POINTSMAN_ADMIN_KEY": KEY,
        **({DATABASE_VARIABLE: database.url} if database.url is not None else {}),
    }
    began = time.monotonic()
    with running([sys.executable, "-m", "router", "serve"], out, cpus=places.server, environ=environ) as process:
        url = await_line(process, out, _url_in)
        _demand_picture(url, HEADERS)
        yield Serving(url, process.pid, time.monotonic() - began)


def _demand_picture(url: str, headers: Mapping[str, str]) -> None:
    status, said = ask("POST", f"{url}{IMAGES}", write_image("small"), headers)
    if status != 200:
        raise CannotMeasure(f"the first call is answered with {status}: {said[:300]!r}")


def _url_in(line: str) -> str:
    """The address in the log line that says where the daemon listens."""
    return str(json.loads(line)["url"]) if '"listening"' in line and line.endswith("}") else ""
