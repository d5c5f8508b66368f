"""What a finished picture, film or sound may be: told from its first bytes alone, never from what somebody calls it.

Policy. A result is stored only if its magic bytes are on the list below; anything else (SVG, HTML, JSON, archives) is
refused, because a browser might run it. The content type and the extension follow from the magic, not from a header
(reliability-security case P7). Each family has a size cap, and a picture whose header promises more than 100 million
pixels is refused without being decoded (section 8, case P8). Pixel sizes are read from headers; they are None where
the format hides them or the header lies beyond the bytes given. Floor 1: pure, bytes in and values out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

HEAD_BYTES = 256 << 10
"""How much of a file's start the functions below want: a JPEG may carry its pixel size behind long metadata."""

MAX_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 64 << 20
MAX_VIDEO_BYTES = 2 << 30


class Family(StrEnum):
    """What a file is for a person; image and video are the words of `Kind.family`."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class MediaType:
    """One type on the list. `max_bytes` is the size cap of its family."""

    content_type: str
    extension: str
    family: Family

    @property
    def max_bytes(self) -> int:
        """The largest file of this type that is stored. No rule names sound: it gets the smaller cap."""
        return MAX_VIDEO_BYTES if self.family is Family.VIDEO else MAX_IMAGE_BYTES


PNG = MediaType("image/png", "png", Family.IMAGE)
JPEG = MediaType("image/jpeg", "jpg", Family.IMAGE)
WEBP = MediaType("image/webp", "webp", Family.IMAGE)
GIF = MediaType("image/gif", "gif", Family.IMAGE)
AVIF = MediaType("image/avif", "avif", Family.IMAGE)
HEIC = MediaType("image/heic", "heic", Family.IMAGE)
BMP = MediaType("image/bmp", "bmp", Family.IMAGE)
TIFF = MediaType("image/tiff", "tiff", Family.IMAGE)
MP4 = MediaType("video/mp4", "mp4", Family.VIDEO)
WEBM = MediaType("video/webm", "webm", Family.VIDEO)
MOV = MediaType("video/quicktime", "mov", Family.VIDEO)
MP3 = MediaType("audio/mpeg", "mp3", Family.AUDIO)
WAV = MediaType("audio/wav", "wav", Family.AUDIO)
OGG = MediaType("audio/ogg", "ogg", Family.AUDIO)
FLAC = MediaType("audio/flac", "flac", Family.AUDIO)
M4A = MediaType("audio/mp4", "m4a", Family.AUDIO)

MEDIA_TYPES = (PNG, JPEG, WEBP, GIF, AVIF, HEIC, BMP, TIFF, MP4, WEBM, MOV, MP3, WAV, OGG, FLAC, M4A)


def sniff(head: bytes) -> MediaType | None:
    """Tell the type from the first bytes (64 suffice), None when it is not on the list."""
    for magic, media_type in _MAGIC:
        if head.startswith(magic):
            return media_type
    if head.startswith(b"RIFF"):
        return _RIFF_FORMS.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _sniff_brand(head)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        # Matroska's general form is not on the list: browsers do not play it.
        return WEBM if b"\x42\x82\x84webm" in head[:64] else None
    if head.startswith(b"BM"):
        # Two letters are a weak sign: the reserved zeros and a known header size must follow.
        return BMP if head[6:10] == bytes(4) and _little(head, 14, 4) in _BMP_HEADER_SIZES else None
    return MP3 if _is_mp3_frame(head) else None


def dimensions(head: bytes) -> tuple[int, int] | None:
    """Read (width, height) in pixels from the header of a picture; None when it is not to be had from these bytes."""
    media_type = sniff(head)
    reader = _READERS.get(media_type.extension) if media_type else None
    sides = reader(head) if reader else None
    return sides if sides is not None and min(sides) > 0 else None


# -- magic ----------------------------------------------------------------------------------------------------------

_MAGIC: tuple[tuple[bytes, MediaType], ...] = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"OggS", OGG),
    (b"fLaC", FLAC),
    (b"ID3", MP3),
)
_RIFF_FORMS = {b"WEBP": WEBP, b"WAVE": WAV}
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 108, 124})

# Brands of ISO base media files (ISO/IEC 14496-12 and its registry). The order decides where a file names several:
# an AVIF also calls itself mif1, a sound file often isom.
_BRANDS: tuple[tuple[frozenset[bytes], MediaType], ...] = (
    (frozenset({b"avif", b"avis"}), AVIF),
    (frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}), HEIC),
    (frozenset({b"M4A ", b"M4B "}), M4A),
    (frozenset({b"qt  "}), MOV),
    (
        frozenset({b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"dash", b"M4V ", b"MSNV"}),
        MP4,
    ),
)


def _sniff_brand(head: bytes) -> MediaType | None:
    size = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    # The major brand is what the file says it is first of all; the others only what it can be read as.
    for candidates in ({head[8:12]}, brands):
        for names, media_type in _BRANDS:
            if names & candidates and not (media_type is HEIC and _BRANDS[0][0] & brands):
                return media_type
    return None


def _is_mp3_frame(head: bytes) -> bool:
    """Whether an MPEG audio frame of layer III starts here: 11 sync bits, then values that are not reserved."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    bitrate, rate = head[2] >> 4, (head[2] >> 2) & 3
    return version != 1 and layer == 1 and 0 < bitrate < 15 and rate != 3


# -- pixel sizes ----------------------------------------------------------------------------------------------------


def _big(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "big") if len(head) >= at + size else 0


def _little(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "little") if len(head) >= at + size else 0


def _measure_png(head: bytes) -> tuple[int, int] | None:
    return (_big(head, 16, 4), _big(head, 20, 4)) if head[12:16] == b"IHDR" else None


def _measure_gif(head: bytes) -> tuple[int, int]:
    return _little(head, 6, 2), _little(head, 8, 2)


def _measure_bmp(head: bytes) -> tuple[int, int]:
    if _little(head, 14, 4) == 12:
        return _little(head, 18, 2), _little(head, 20, 2)
    # A negative height means that the rows run downwards.
    height = _little(head, 22, 4)
    return _little(head, 18, 4), height if height < 1 << 31 else (1 << 32) - height


def _measure_webp(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X" if len(head) >= 30:
            return _little(head, 24, 3) + 1, _little(head, 27, 3) + 1
        case b"VP8L" if head[20:21] == b"\x2f" and len(head) >= 25:
            bits = _little(head, 21, 4)
            return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            return _little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF
    return None


def _measure_jpeg(head: bytes) -> tuple[int, int] | None:
    """Walk from segment to segment up to the frame header (ITU T.81, annex B)."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return _big(head, at + 7, 2), _big(head, at + 5, 2)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        else:
            at += 2 + max(_big(head, at + 2, 2), 2)
    return None


def _measure_heif(head: bytes) -> tuple[int, int] | None:
    """Find the largest `ispe` property: of a grid of tiles and a thumbnail, the whole picture's."""
    sides = [
        (_big(head, extent.start + 4, 4), _big(head, extent.start + 8, 4))
        for meta in _find_boxes(head, range(len(head)), b"meta")
        for properties in _find_boxes(head, range(meta.start + 4, meta.stop), b"iprp")  # behind version and flags
        for container in _find_boxes(head, properties, b"ipco")
        for extent in _find_boxes(head, container, b"ispe")
    ]
    return max(sides, key=lambda pair: pair[0] * pair[1], default=None)


def _find_boxes(head: bytes, space: range, name: bytes) -> Iterator[range]:
    """Yield where the content of each box of this name lies, of those that follow one another in `space`."""
    at = space.start
    while at + 8 <= space.stop:
        size, body = _big(head, at, 4), at + 8
        if size == 1:
            size, body = _big(head, at + 8, 8), at + 16
        end = space.stop if size == 0 else at + size
        if end < body:
            return
        if head[at + 4 : at + 8] == name:
            yield range(body, min(end, space.stop))
        at = end


_READERS = {
    PNG.extension: _measure_png,
    JPEG.extension: _measure_jpeg,
    GIF.extension: _measure_gif,
    BMP.extension: _measure_bmp,
    WEBP.extension: _measure_webp,
    AVIF.extension: _measure_heif,
    HEIC.extension: _measure_heif,
}
