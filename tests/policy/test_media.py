"""What counts as a picture, a film or a sound: samples drawn by Pillow, headers written by hand, lies and noise."""

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from router.policy import media
from router.policy.media import MAX_IMAGE_BYTES, MAX_PIXELS, MAX_VIDEO_BYTES, MEDIA_TYPES, Family, dimensions, sniff

# Pillow's name of a format -> what we must say, with the ways to save it
DRAWN = {
    "PNG": (media.PNG, [{}, {"interlace": 1}]),
    "JPEG": (media.JPEG, [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(60_000)}]),
    "GIF": (media.GIF, [{}]),
    "BMP": (media.BMP, [{}]),
    "TIFF": (media.TIFF, [{}, {"compression": "tiff_lzw"}]),
    "WEBP": (media.WEBP, [{"quality": 50}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(50)}]),
    "AVIF": (media.AVIF, [{}]),
}


def draw(name, size, **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (333, 1777)])
@pytest.mark.parametrize(
    ("name", "media_type", "options"),
    [(name, media_type, options) for name, (media_type, ways) in DRAWN.items() for options in ways],
)
def test_a_drawn_picture_is_known_with_its_size(name, media_type, options, size):
    picture = draw(name, size, **options)

    assert sniff(picture) is media_type
    assert sniff(picture[:64]) is media_type
    assert dimensions(picture) == (None if name == "TIFF" else size)


def test_a_bottom_up_and_an_old_bitmap_are_measured():
    modern = b"BM" + bytes(4) + bytes(4) + struct.pack("<IIiiHH", 54, 40, 30, -20, 1, 24)
    old = b"BM" + bytes(4) + bytes(4) + struct.pack("<IIHHHH", 26, 12, 30, 20, 1, 24)

    assert dimensions(modern) == (30, 20)
    assert dimensions(old) == (30, 20)


def boxed(name, *contents):
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), name) + body


def test_the_largest_extent_of_a_tiled_picture_counts():
    extents = [boxed(b"ispe", struct.pack(">III", 0, *sides)) for sides in ((160, 120), (4032, 3024), (512, 512))]
    meta = boxed(b"meta", bytes(4), boxed(b"hdlr", bytes(20)), boxed(b"iprp", boxed(b"ipco", *extents)))
    picture = boxed(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta

    assert sniff(picture) is media.HEIC
    assert dimensions(picture) == (4032, 3024)


def branded(major, *others):
    return boxed(b"ftyp", major, bytes(4), *others) + boxed(b"mdat", bytes(64))


HEADS = {
    "mp4": (branded(b"isom", b"iso2avc1mp41"), media.MP4),
    "mp4 with sound in it": (branded(b"mp42", b"M4A mp42isom"), media.MP4),
    "mp4 of an unknown maker": (branded(b"XYZW", b"mp42"), media.MP4),
    "quicktime": (branded(b"qt  ", b"qt  "), media.MOV),
    "m4a": (branded(b"M4A ", b"M4A mp42isom"), media.M4A),
    "avif that says mif1 first": (branded(b"mif1", b"avifmiaf"), media.AVIF),
    "heic that says mif1 first": (branded(b"mif1", b"heic"), media.HEIC),
    "webm": (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\x82\x84webm\x42\x87", media.WEBM),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", media.WAV),
    "ogg": (b"OggS\0\x02" + bytes(20), media.OGG),
    "flac": (b"fLaC\0\0\0\x22", media.FLAC),
    "mp3 with tags": (b"ID3\x04\0\0" + bytes(20), media.MP3),
    "mp3 without tags": (b"\xff\xfb\x90\x64" + bytes(20), media.MP3),
    "big-endian tiff": (b"MM\0*\0\0\0\x08", media.TIFF),
}


@pytest.mark.parametrize(("head", "media_type"), HEADS.values(), ids=HEADS)
def test_a_head_is_known(head, media_type):
    assert sniff(head) is media_type


STRANGERS = {
    "nothing": b"",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "svg with a prologue": b'<?xml version="1.0"?><svg/>',
    "html": b"<!doctype html><html><body>502 Bad Gateway",
    "json": b'{"error": {"message": "gone"}}',
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04" + bytes(30),
    "gzip": b"\x1f\x8b\x08\0",
    "elf": b"\x7fELF\x02\x01\x01",
    "text that begins with BM": b"BMW builds cars and this is a sentence about them.",
    "a torn png": b"\x89PNG\r\n",
    "a png behind a byte order mark": b"\xef\xbb\xbf\x89PNG\r\n\x1a\n",
    "matroska": b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01\x42\x82\x88matroska",
    "an avi": b"RIFF\x24\0\0\0AVI LIST",
    "a brand that we do not know": branded(b"XYZW", b"ABCD"),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "adts sound": b"\xff\xf1\x50\x80" + bytes(20),
    "noise that begins like sound": b"\xff\xff\xff\xff" + bytes(20),
    "flash": b"CWS\x0f",
    "icon": b"\0\0\x01\0\x01\0",
}


@pytest.mark.parametrize("head", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_refused(head):
    assert sniff(head) is None
    assert dimensions(head) is None


def claim_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(header))


BOMBS = {
    "png": claim_png(30_000, 30_000),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3),
    "jpeg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + struct.pack(">HH", 65_000, 65_000) + bytes(10),
    "webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x3f" + b"\xff\xff\x03",
    "bmp": b"BM" + bytes(8) + struct.pack("<IIii", 54, 40, 2**31 - 1, 2**31 - 1),
    "avif": branded(b"avif", b"mif1")[:-72]
    + boxed(b"meta", bytes(4), boxed(b"iprp", boxed(b"ipco", boxed(b"ispe", bytes(4), b"\xff" * 8)))),
}


@pytest.mark.parametrize("head", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_told_by_its_header_alone(head):
    width, height = dimensions(head)

    assert width * height > MAX_PIXELS
    assert len(head) < 200


@pytest.mark.parametrize(
    "head", [claim_png(0, 5), claim_png(5, 0), claim_png(5, 5)[:20], b"\x89PNG\r\n\x1a\n" + bytes(30)]
)
def test_a_size_that_is_none_is_not_told(head):
    assert dimensions(head) is None


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "TIFF"])
def test_a_header_that_is_cut_short_is_not_misread(name):
    picture = draw(name, (640, 480))

    assert {dimensions(picture[:length]) for length in range(min(len(picture), 1000))} <= {None, (640, 480)}


PREFIXES = st.sampled_from([draw(name, (9, 7)) for name in DRAWN] + [head for head, _ in HEADS.values()])


@given(prefix=PREFIXES, cut=st.integers(0, 80), noise=st.binary(max_size=200))
def test_no_bytes_make_it_stumble(prefix, cut, noise):
    for head in (noise, prefix[:cut] + noise):
        sides = dimensions(head)
        assert sniff(head) in {None, *MEDIA_TYPES}
        assert sides is None or min(sides) > 0


def test_a_box_that_claims_no_length_ends_the_walk():
    head = branded(b"avif")[:-72] + boxed(b"meta", bytes(4), b"\0\0\0\x01iprp" + bytes(8), b"\0\0\0\0iprp")

    assert dimensions(head) is None


def test_each_type_has_a_cap_an_extension_and_its_family():
    assert len({media_type.extension for media_type in MEDIA_TYPES}) == len(MEDIA_TYPES) == 16
    for media_type in MEDIA_TYPES:
        assert media_type.content_type.startswith(f"{media_type.family}/")
        assert media_type.max_bytes == (MAX_VIDEO_BYTES if media_type.family is Family.VIDEO else MAX_IMAGE_BYTES)
