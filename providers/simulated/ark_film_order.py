"""An order for a film by Seedance, and the rules by which Ark takes or refuses it.

Pure: parsed fields in, a `FilmOrder` or a `Refusal` out. What a film shall be stands in fields of the body or, for the
older models, behind the prompt as `--ratio 16:9 --dur 5`; the body wins. Such an option that is unknown or wrong is
passed over without a word, resolution and duration excepted, as its customers found.
Source: the provider file of Ark, sections 3, 5 and 7; pixels by resolution and ratio from the vendor's table.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from providers.simulated.ark_errors import Refusal, RefusalError
from providers.simulated.ark_fields import (
    SEED_MAX,
    Fields,
    check_kind,
    check_link,
    missing,
    read_flag,
    read_number,
    read_text,
    read_word,
    wrong,
)
from providers.simulated.ark_picture_order import check_model
from providers.simulated.film import Film
from providers.simulated.picture import Picture

FRAMES_PER_SECOND: Final = 24
SECONDS_USUAL: Final = 5
SECONDS_MIN, SECONDS_MAX = 2, 15
FRAMES_MIN, FRAMES_MAX = 29, 289
"""Shortest and longest film over all models; the file gives no bounds, the vendor's pages these."""
EXPIRES_AFTER_S: Final = 172_800

RATIOS: Final = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
_FIRST: Mapping[str, tuple[tuple[int, int], ...]] = {
    "480p": ((864, 480), (736, 544), (640, 640), (544, 736), (480, 864), (960, 416)),
    "720p": ((1248, 704), (1120, 832), (960, 960), (832, 1120), (704, 1248), (1504, 640)),
    "1080p": ((1920, 1088), (1664, 1248), (1440, 1440), (1248, 1664), (1088, 1920), (2176, 928)),
}
_LATER: Mapping[str, tuple[tuple[int, int], ...]] = {
    "480p": ((864, 496), (752, 560), (640, 640), (560, 752), (496, 864), (992, 432)),
    "720p": ((1280, 720), (1112, 834), (960, 960), (834, 1112), (720, 1280), (1470, 630)),
    "1080p": ((1920, 1080), (1664, 1248), (1440, 1440), (1248, 1664), (1080, 1920), (2206, 946)),
    # Twice 1080p: the table that could be had ends before it.
    "4k": ((3840, 2160), (3328, 2496), (2880, 2880), (2496, 3328), (2160, 3840), (4412, 1892)),
}

USD_PER_S: Mapping[tuple[str, str], Decimal] = {
    ("seedance-2-5", "720p"): Decimal("0.216"),
    ("seedance-2-0-fast", "720p"): Decimal("0.114"),
    ("seedance-2-0-mini", "720p"): Decimal("0.071"),
    ("seedance-2-0", "480p"): Decimal("0.066"),
    ("seedance-2-0", "720p"): Decimal("0.142"),
    ("seedance-2-0", "1080p"): Decimal("0.354"),
    ("seedance-2-0", "4k"): Decimal("0.722"),
}
"""The prices of the file, by the first line that a model's name contains."""
USD_PER_S_UNLISTED: Final = Decimal("0.05")
"""Of what has no price in the file: a stand-in."""
FLEX_SHARE: Final = Decimal("0.5")
"""`flex` is "cheaper"; half is taken."""

_ROLES: Mapping[str, tuple[str, ...]] = {
    "image_url": ("first_frame", "last_frame", "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
_OPTION = re.compile(r"(?:^|\s)--([a-z_]+)[ =]+(\S+)")
_OPTIONS: Mapping[str, str] = {
    "resolution": "resolution",
    "rs": "resolution",
    "ratio": "ratio",
    "rt": "ratio",
    "dur": "duration",
    "duration": "duration",
    "seed": "seed",
    "wm": "watermark",
    "watermark": "watermark",
    "cf": "camera_fixed",
    "camerafixed": "camera_fixed",
}
_KNOWS: Mapping[str, Callable[[str], Any]] = {
    "resolution": str,
    "ratio": lambda word: word if word in (*RATIOS, "adaptive") else None,
    "duration": lambda word: int(word) if re.fullmatch(r"[0-9]{1,4}", word) else word,
    "seed": lambda word: int(word) if re.fullmatch(r"-1|[0-9]{1,9}", word) else None,
    "watermark": {"true": True, "false": False}.get,
    "camera_fixed": {"true": True, "false": False}.get,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOrder:
    """A valid order. prompt: without the options behind it. frames: None if seconds were asked for; seconds: of the
    film. tier: default or flex. expires_after_s: unscaled seconds within which it must be done.
    """

    model: str
    prompt: str
    resolution: str
    ratio: str
    width: int
    height: int
    seconds: float
    frames: int | None
    seed: int
    tier: str
    expires_after_s: int
    callback_url: str | None
    last_frame: bool

    @property
    def tokens(self) -> int:
        """Completion tokens. The file's formula, width x height x frames / 1024, gives its printed 246840 for five
        seconds of 1080p if a film has one frame more than its rate times its length.
        """
        frames = round(self.seconds * FRAMES_PER_SECOND) + 1 if self.frames is None else self.frames
        return self.width * self.height * frames // 1024

    @property
    def price_usd(self) -> Decimal:
        """What the film costs once it has succeeded."""
        name = self.model.replace(".", "-")
        line = next((line for line, _ in USD_PER_S if line in name), "")
        each = USD_PER_S.get((line, self.resolution), USD_PER_S_UNLISTED)
        return each * Decimal(f"{self.seconds:g}") * (FLEX_SHARE if self.tier == "flex" else 1)

    def draw_up(self) -> tuple[Film | Picture, ...]:
        """The film, and its last frame if that was asked for."""
        caption = f"{self.model}  {self.width}x{self.height}  {self.seconds:g} s  seed {self.seed}"
        film = Film(self.prompt, self.width, self.height, self.seconds, caption=caption)
        if not self.last_frame:
            return (film,)
        return film, Picture(self.prompt, self.width, self.height, format="png", caption=caption)


def read_film_order(fields: Fields, models: Collection[str] | None) -> FilmOrder | Refusal:
    """Check the fields of a body. models: the only ones known, or None."""
    try:
        return _read(fields, models)
    except RefusalError as found:
        return found.refusal


def _read(fields: Fields, models: Collection[str] | None) -> FilmOrder:
    model = read_text(fields, "model")
    check_model(model, models)
    if "seedream" in model or "seededit" in model:
        raise wrong("model", "the model does not support content generation")
    text, framed = _read_content(fields)
    prompt, said = _split_options(text)
    asked = {**said, **{name: value for name, value in fields.items() if value is not None}}
    resolution = _read_resolution(asked, model)
    ratio = read_word(asked, "ratio", (*RATIOS, "adaptive"), "adaptive" if framed else "16:9")
    # What is adapted to is the first frame, which is not looked at.
    ratio = "16:9" if ratio == "adaptive" else ratio
    sizes = _FIRST if _is_first(model) else _LATER
    width, height = sizes[resolution][RATIOS.index(ratio)]
    frames, seconds = _read_length(asked)
    _check_rest(asked)
    seed = read_number(asked, "seed", -1, SEED_MAX)
    expires = read_number(asked, "execution_expires_after", 1, 10 * EXPIRES_AFTER_S)
    return FilmOrder(
        model=model,
        prompt=prompt,
        resolution=resolution,
        ratio=ratio,
        width=width,
        height=height,
        seconds=seconds,
        frames=frames,
        seed=_throw_seed(prompt) if seed is None or seed < 0 else seed,
        tier=read_word(asked, "service_tier", ("default", "flex"), "default"),
        expires_after_s=EXPIRES_AFTER_S if expires is None else expires,
        callback_url=fields.get("callback_url"),
        last_frame=read_flag(asked, "return_last_frame"),
    )


def _is_first(model: str) -> bool:
    return "seedance-1-0" in model or "seedance-1.0" in model


def _read_content(fields: Fields) -> tuple[str, bool]:
    """The texts of `content` in one, and whether a frame comes with them."""
    content = fields.get("content")
    if content is None or content == []:
        raise missing("content")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise wrong("content", "a list of objects is expected")
    texts: list[str] = []
    roles: list[str] = []
    for number, part in enumerate(content):
        name, kind = f"content[{number}]", part.get("type")
        if kind == "text":
            if not isinstance(part.get("text"), str) or not part["text"].strip():
                raise missing(f"{name}.text")
            texts.append(part["text"])
        elif kind == "draft_task":
            if not isinstance(part.get("draft_task"), dict) or not isinstance(part["draft_task"].get("id"), str):
                raise missing(f"{name}.draft_task.id")
        elif isinstance(kind, str) and kind in _ROLES:
            roles.append(_read_role(part, kind, name))
        else:
            raise wrong(f"{name}.type", f"it must be one of text, draft_task, {', '.join(_ROLES)}")
    _check_roles(roles)
    return " ".join(texts), "first_frame" in roles


def _read_role(part: Fields, kind: str, name: str) -> str:
    holder = part.get(kind)
    if not isinstance(holder, dict):
        raise missing(f"{name}.{kind}")
    check_link(holder.get("url"), f"{name}.{kind}.url", inline=kind != "video_url")
    role = part.get("role")
    if role is None:
        return _ROLES[kind][0]  # a lone picture is the first frame
    if role not in _ROLES[kind]:
        raise wrong(f"{name}.role", f"it must be one of {', '.join(_ROLES[kind])}")
    return str(role)


def _check_roles(roles: list[str]) -> None:
    frames = [role for role in roles if role.endswith("_frame")]
    if len(frames) != len(set(frames)):
        raise wrong("content", "first_frame and last_frame may occur once each")
    if frames == ["last_frame"]:
        raise wrong("content", "last_frame needs first_frame")
    if frames and len(frames) < len(roles):
        raise wrong("content", "first or last frames cannot be mixed with references")


def _split_options(text: str) -> tuple[str, dict[str, Any]]:
    """A prompt without the options behind it, and those that are known and right."""
    said: dict[str, Any] = {}
    for word, value in _OPTION.findall(text):
        name = _OPTIONS.get(word)
        known = None if name is None else _KNOWS[name](value)
        if name is not None and known is not None:
            said[name] = known
    return _OPTION.sub("", text).strip(), said


def _read_resolution(asked: Fields, model: str) -> str:
    usual = "1080p" if "seedance-1-0-pro" in model or "seedance-1.0-pro" in model else "720p"
    large = "seedance-2" in model and "fast" not in model and "mini" not in model
    return read_word(asked, "resolution", ("480p", "720p", "1080p", *(("4k",) if large else ())), usual)


def _read_length(asked: Fields) -> tuple[int | None, float]:
    frames = read_number(asked, "frames", FRAMES_MIN, FRAMES_MAX)
    if frames is not None:
        if (frames - 25) % 4:
            raise wrong("frames", "it must be 25 and a multiple of 4")
        return frames, frames / FRAMES_PER_SECOND
    seconds = read_number(asked, "duration", SECONDS_MIN, SECONDS_MAX)
    return None, float(SECONDS_USUAL if seconds is None else seconds)


def _check_rest(asked: Fields) -> None:
    for name in ("watermark", "camera_fixed", "generate_audio", "draft"):
        read_flag(asked, name)
    read_number(asked, "priority", -1000, 1000)
    for name in ("callback_url", "safety_identifier", "output_format", "omni_reference_task_type"):
        check_kind(asked, name, str, "a string")
    check_kind(asked, "tools", list, "a list")


def _throw_seed(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 100_000
