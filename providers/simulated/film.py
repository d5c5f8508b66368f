"""The films that simulated providers make: real MP4 and WebM files of the length asked for, with the prompt on them.

A film is a pure function of what was asked for: the still that `picture.py` draws of the prompt, with a white bar along
the foot that grows from nothing to the full width. Its size and its length are those asked for; it has few frames,
because nobody looks closely and a machine that tests is small. PyAV (FFmpeg) is imported only when a film is drawn; it
belongs to the extra `video`, and simulators of pictures run without it.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from providers.simulated.picture import PIXELS_MAX, Picture, draw

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["mp4", "webm"]

FRAMES_PER_SECOND = 8
"""As long as a film of that many frames is cheap."""
CODED_PIXELS_MAX = 96_000_000
"""Pixels of all frames of one film together, which is some half second of work: a long or large film has fewer frames
per second.
"""
FRAMES_MIN, FRAMES_MAX = 2, 240
SECONDS_MAX = 600.0
"""The longest film; a simulator refuses a longer one before it gets here."""

INDEX_BYTES, INDEX_BYTES_PER_FRAME = 2048, 16
"""Room for the index of an MP4 in front of its pictures, so that it plays while it loads. What it does not fill is
left free; the muxer complains about too little.
"""


@dataclass(frozen=True, slots=True)
class Film:
    """What a film depends on. width and height in pixels, both even; index: which one of a request's films; caption: a
    last line.
    """

    prompt: str
    width: int
    height: int
    seconds: float
    format: Format = "mp4"
    index: int = 0
    caption: str = ""

    @property
    def content_type(self) -> str:
        """What a download of it is called on the wire."""
        return f"video/{self.format}"


@dataclass(frozen=True, slots=True)
class _Recipe:
    codec: str
    options: dict[str, str]


# One thread, and bitexact, which leaves out the library's version and the day: the same order makes the same file.
_RECIPES: dict[Format, _Recipe] = {
    "mp4": _Recipe(
        codec="libx264",
        options={"preset": "ultrafast", "tune": "zerolatency", "crf": "30", "flags": "+bitexact"},
    ),
    "webm": _Recipe(
        codec="libvpx",
        options={"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "1M", "flags": "+bitexact"},
    ),
}


class PyAVMissingError(RuntimeError):
    """A film was to be drawn where PyAV is not installed."""


def render(film: Film) -> bytes:
    """The file of one film: H.264 in MP4 with its index in front, or VP8 in WebM. ValueError: its size is odd or
    outside `PIXELS_MAX`, or its length outside `SECONDS_MAX`. PyAVMissingError names the extra to install.
    """
    av = load_av()
    even = film.width % 2 == film.height % 2 == 0
    if not even or min(film.width, film.height) <= 0 or film.width * film.height > PIXELS_MAX:
        raise ValueError(f"a film of {film.width}x{film.height} is odd or outside 1 to {PIXELS_MAX} pixels")
    if not 0 < film.seconds <= SECONDS_MAX:
        raise ValueError(f"a film of {film.seconds} seconds is outside 0 to {SECONDS_MAX}")
    recipe, frames = _RECIPES[film.format], count_frames(film)
    room = {"moov_size": str(INDEX_BYTES + INDEX_BYTES_PER_FRAME * frames)} if film.format == "mp4" else {}
    file = io.BytesIO()
    with av.open(file, "w", format=film.format, container_options={"fflags": "+bitexact", **room}) as container:
        # The rate is the quotient itself, so that the last frame ends where the film shall end.
        rate = Fraction(frames * 1000, max(1, round(film.seconds * 1000)))
        stream = container.add_stream(recipe.codec, rate=rate, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.codec_context.thread_count = 1
        still = draw(Picture(film.prompt, film.width, film.height, index=film.index, caption=film.caption))
        for number in range(frames):
            container.mux(stream.encode(_frame(av, still, number, frames, 1 / rate)))
        container.mux(stream.encode())
    return file.getvalue()


def count_frames(film: Film) -> int:
    """Frames that a film has: `FRAMES_PER_SECOND`, or fewer where that would be too many pixels."""
    affordable = CODED_PIXELS_MAX // (film.width * film.height)
    return max(FRAMES_MIN, min(round(film.seconds * FRAMES_PER_SECOND), affordable, FRAMES_MAX))


def load_av() -> ModuleType:
    """The package av. PyAVMissingError names the extra to install."""
    try:
        import av  # noqa: PLC0415 - the daemon and the simulators of pictures must run without it
    except ImportError as missing:
        raise PyAVMissingError(
            "the provider simulators film with PyAV, which is not installed: pip install 'pointsman[simulators,video]'"
        ) from missing
    return av


def _frame(av: ModuleType, still: "Image.Image", number: int, frames: int, lasts_s: Fraction) -> Any:
    # The bar lies below the caption and has its full width in the last frame.
    moment = still.copy()
    thick = max(2, still.height // 40)
    moment.paste("white", (0, still.height - thick, still.width * (number + 1) // frames, still.height))
    frame = av.VideoFrame.from_image(moment)
    frame.pts, frame.time_base = number, lasts_s
    return frame
