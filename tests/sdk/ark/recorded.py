"""What the Ark SDK sends for a set of calls, taken from a server that knows nothing of Ark and answers `{}` to all.

`tests/providers/recorded/ark.yaml` keeps it for the tests of the adapter, and `test_recorded.py` compares the two. Left
out are headers that a client sets by itself, differ from call to call or hold the key.
"""

import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from volcenginesdkarkruntime import Ark
from volcenginesdkarkruntime.types.images import (
    ContentGenerationTool,
    OptimizePromptOptions,
    SequentialImageGenerationOptions,
)

SEEDREAM = "doubao-seedream-4-0-250828"
SEEDREAM_5 = "doubao-seedream-5-0-260128"
SEEDANCE = "doubao-seedance-1-0-pro-250528"
SEEDANCE_2 = "doubao-seedance-2-0-260128"
TASK, OTHER = "cgt-20261120-abcde", "cgt-20261120-fghij"
LINK, DATA = "https://caller.example/a.png", "data:image/png;base64,aW4vMA=="
FOUR: Mapping[str, Any] = {
    "sequential_image_generation": "auto",
    "sequential_image_generation_options": SequentialImageGenerationOptions(max_images=4),
}
TEXT = {"type": "text", "text": "a cat runs"}

KEPT = ("Accept", "Content-Type")
ANSWER, STREAMED = b"{}", b"data: [DONE]\n\n"


def picture(link: str, role: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": link}, "role": role}


def draw(client: Ark, **asked: Any) -> object:
    return client.images.generate(**{"model": SEEDREAM, "prompt": "a red fox"} | asked)


def film(client: Ark, **asked: Any) -> object:
    return client.content_generation.tasks.create(**{"model": SEEDANCE, "content": [TEXT]} | asked)


CALLS: Mapping[str, Callable[[Ark], object]] = {
    "image": lambda client: draw(client, size="2K", response_format="url", watermark=False),
    "image_inline": lambda client: draw(client, size="1024x1536", response_format="b64_json", watermark=False),
    "image_batch": lambda client: draw(client, size="2K", watermark=False, **FOUR),
    "image_from_one": lambda client: draw(client, prompt="give it a hat", image=LINK, size="2K"),
    "image_from_several": lambda client: draw(client, prompt="give it a hat", image=[LINK, DATA], size="2K"),
    "image_options": lambda client: draw(
        client,
        model=SEEDREAM_5,
        optimize_prompt_options=OptimizePromptOptions(mode="fast"),
        tools=[ContentGenerationTool(type="web_search")],
        output_format="png",
    ),
    "image_stream": lambda client: list(draw(client, size="2K", stream=True, **FOUR)),
    "film": lambda client: film(client, resolution="720p", ratio="16:9", duration=5, watermark=False),
    "film_options_in_text": lambda client: film(
        client, content=[{"type": "text", "text": "a cat runs --ratio 16:9 --dur 5"}]
    ),
    "film_from_frames": lambda client: film(
        client,
        content=[TEXT, picture(LINK, "first_frame"), picture(DATA, "last_frame")],
        ratio="adaptive",
        duration=5,
        seed=7,
        camera_fixed=False,
        return_last_frame=True,
        callback_url="https://caller.example/hook",
        service_tier="flex",
        execution_expires_after=3600,
    ),
    "film_from_references": lambda client: film(
        client,
        model=SEEDANCE_2,
        content=[
            TEXT,
            picture(LINK, "reference_image"),
            {"type": "video_url", "video_url": {"url": "https://caller.example/a.mp4"}, "role": "reference_video"},
            {"type": "audio_url", "audio_url": {"url": "https://caller.example/a.mp3"}, "role": "reference_audio"},
        ],
        duration=5,
        generate_audio=True,
    ),
    "task": lambda client: client.content_generation.tasks.get(task_id=TASK),
    "tasks": lambda client: client.content_generation.tasks.list(),
    "tasks_filtered": lambda client: client.content_generation.tasks.list(
        page_num=1, page_size=10, status="succeeded", task_ids=[TASK, OTHER], model=SEEDANCE
    ),
    "delete": lambda client: client.content_generation.tasks.delete(task_id=TASK),
}


def record() -> dict[str, dict[str, Any]]:
    """Make every call once: by its name, the method, path, query, kept headers and JSON body of its only request."""
    seen: list[dict[str, Any]] = []

    class Wall(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parsed = json.loads(body) if body else None
            address = urllib.parse.urlsplit(self.path)
            request: dict[str, Any] = {"method": self.command, "path": address.path}
            if address.query:
                request["query"] = [list(pair) for pair in urllib.parse.parse_qsl(address.query)]
            request["headers"] = {name: self.headers[name] for name in KEPT if name in self.headers}
            if parsed is not None:
                request["json"] = parsed
            seen.append(request)
            streams = isinstance(parsed, dict) and parsed.get("stream")
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
            self.send_header("Content-Length", str(len(STREAMED if streams else ANSWER)))
            self.end_headers()
            self.wfile.write(STREAMED if streams else ANSWER)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_DELETE(self) -> None:
            self.answer()

        def log_message(self, *_arguments: object) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wall) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Ark(api_key="ark-x", base_url=f"http://127.0.0.1:{server.server_port}/api/v3") as client:
                for call in CALLS.values():
                    call(client)
        finally:
            server.shutdown()
            thread.join()
    assert len(seen) == len(CALLS), "a call was sent more than once"
    return dict(zip(CALLS, seen, strict=True))
