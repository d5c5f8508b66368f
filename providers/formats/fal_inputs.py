"""What fal's models take: which can do what, and how the caller's words are said in a model's input.

Every model has its own schema (provider notes, section 3: "common inputs"). What is known of the models that the notes
name, from their own pages, is data (`MODELS`); any other gets the common words and every further field as it came. An
endpoint either draws from a prompt or works on pictures, which the end of its name tells. Pure: no call is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from providers.formats import openai_images
from router import outcome
from router.geometry import Sizes, parse_size, quality_of, ratio_of, resolution_of, size_of, tier_of
from router.outcome import Fail, FailureKind
from router.provider import Abilities, Job, Kind, Role, place

_EDITS = frozenset({Kind.IMAGE_EDIT})
_FILMS = frozenset({Kind.VIDEO_GENERATION})
_KINDS = frozenset({Kind.IMAGE_GENERATION}) | _EDITS | _FILMS
# No bound of `num_images` is printed: more than four are asked for in parts. Nor is one of pictures; the model judges.
N_MAX = 4
IMAGES_MAX = 16

_COMMON = frozenset({"prompt", "n", "size", "aspect_ratio", "negative_prompt", "seed", "enable_safety_checker"})
_OF_PICTURES = _COMMON | {"guidance_scale", "num_inference_steps", "output_format"}
_OF_FILMS = _COMMON | {"resolution", "seconds"}
_FIRST_FRAME = frozenset({Role.FIRST_FRAME})

_AUTO = frozenset({"auto"})
_BANANA_RATIOS = frozenset({"21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16"})
_FILM_RATIOS = frozenset({"21:9", "16:9", "4:3", "1:1", "3:4", "9:16"})
_RESOLUTIONS = frozenset({"480p", "720p", "1080p"})
_ANY_SIZE = Sizes(named=_AUTO, max_side=99_999)  # `image_size` is an object of any width and height
_FILM_SIZES = Sizes(named=_AUTO, ratios=_FILM_RATIOS, resolutions=_RESOLUTIONS)
_GPT_SIZES = openai_images.MODELS["gpt-image-2*"].sizes or _ANY_SIZE
_PIXELS = 1024 * 1024  # of a picture of which only the shape is asked


@dataclass(frozen=True, slots=True)
class Model:
    """What an endpoint can do, and how it is spoken to.

    `ratios`: it takes `aspect_ratio` of these, and `resolution` of `tiers`, in place of `image_size`. `only_size`: it
    takes no `aspect_ratio`. `lists`: pictures go under `image_urls`, however few. `qualities`: its words of `quality`.
    """

    abilities: Abilities
    ratios: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset()
    only_size: bool = False
    lists: bool = False
    qualities: frozenset[str] = field(default=frozenset())


_DRAWS = Abilities(frozenset({Kind.IMAGE_GENERATION}), max_n=N_MAX, sizes=_ANY_SIZE, fields=_OF_PICTURES)
_FLUX = Model(_DRAWS, only_size=True)
_SEEDREAM = Model(_DRAWS, only_size=True, lists=True)
_GPT_IMAGE = Model(
    replace(_DRAWS, sizes=_GPT_SIZES, fields=_OF_PICTURES | {"quality"}),
    only_size=True,
    lists=True,
    qualities=frozenset({"low", "medium", "high"}),
)


def _banana(tiers: frozenset[str], *, says_tier: bool) -> Model:
    sizes = Sizes(named=_AUTO, ratios=_BANANA_RATIOS, tiers=tiers)
    said = tiers if says_tier else frozenset[str]()
    return Model(replace(_DRAWS, sizes=sizes), ratios=_BANANA_RATIOS, tiers=said, lists=True)


def _editing(model: Model, images: int = IMAGES_MAX) -> Model:
    """The endpoint that works on pictures, of a model whose other one draws."""
    return replace(model, abilities=replace(model.abilities, kinds=_EDITS, max_images=images, takes_urls=True))


_BANANA = _banana(frozenset({"1K"}), says_tier=False)
_BANANA_2 = _banana(frozenset({"1K", "2K", "4K"}), says_tier=True)
_SEEDANCE = Model(
    Abilities(_FILMS, sizes=_FILM_SIZES, fields=_OF_FILMS, max_images=IMAGES_MAX, roles=_FIRST_FRAME, takes_urls=True)
)

# Named exactly, or by a prefix that ends in "*".
MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "fal-ai/flux/schnell": _FLUX,
        "fal-ai/flux/dev": _FLUX,
        "fal-ai/flux/dev/image-to-image": _editing(_FLUX, images=1),
        "fal-ai/flux-pro/v1.1": _FLUX,
        "fal-ai/nano-banana": _BANANA,
        "fal-ai/nano-banana/edit": _editing(_BANANA),
        "fal-ai/nano-banana-2": _BANANA_2,
        "fal-ai/nano-banana-2/edit": _editing(_BANANA_2),
        "openai/gpt-image-2": _GPT_IMAGE,
        "openai/gpt-image-2/edit": _editing(_GPT_IMAGE),
        "fal-ai/bytedance/seedream/v3/text-to-image": _SEEDREAM,
        "fal-ai/bytedance/seedream/v4/text-to-image": _SEEDREAM,
        "fal-ai/bytedance/seedream/v4/edit": _editing(_SEEDREAM),
        "fal-ai/bytedance/seedance/*": _SEEDANCE,
        "bytedance/seedance-*": _SEEDANCE,
        # Whoever names another model knows what it does.
        "*": Model(
            Abilities(_KINDS, max_n=N_MAX, sizes=_ANY_SIZE, max_images=IMAGES_MAX, roles=_FIRST_FRAME, takes_urls=True)
        ),
    }
)

# Request fields by the caller's names, of fal's.
OUR_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "image_size": "size",
        "num_images": "n",
        "duration": "seconds",
        "image_url": "image",
        "image_urls": "image",
    }
)
# Said under other names, or not said to an upstream at all.
_OURS = frozenset({"n", "size", "seconds", "quality", "model", "response_format", "stream", "partial_images"})


def build_body(job: Job) -> dict[str, Any] | Fail:
    """Build the model's input; a `Fail` when what is asked cannot be said in it, before anything is paid."""
    if job.kind not in _KINDS:
        return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
    model = _model_of(job.model)
    body = {name: value for name, value in job.input.items() if value is not None and name not in _OURS}
    shape = _say_film_size(job) if job.kind in _FILMS else _say_picture_size(job, model)
    if shape is None:
        return outcome.fail(FailureKind.UNSUPPORTED, f"{job.model} has no word for this size", param="size")
    if shape or model.only_size:
        body.pop("aspect_ratio", None)  # a size says the shape, too
    body |= shape
    if job.n > 1 and job.kind not in _FILMS:
        body["num_images"] = job.n
    seconds = job.input.get("seconds")
    if seconds is not None:
        # As text: most models have an enumeration of "5", "10"; the others read a number from it.
        body["duration"] = f"{seconds:g}" if isinstance(seconds, int | float) else seconds
    quality = _say_quality(job, model)
    if quality is not None:
        body["quality"] = quality
    return body | _say_files(job, model)


# -- parts ------------------------------------------------------------------------------------------------------------


def _model_of(name: str) -> Model:
    """Find a model as `AdapterFacts.of_model` finds its abilities."""
    if name in MODELS:
        return MODELS[name]
    return MODELS[max((key for key in MODELS if key.endswith("*") and name.startswith(key[:-1])), key=len)]


def _say_picture_size(job: Job, model: Model) -> dict[str, Any] | None:
    """Say the size as `image_size`, or as `aspect_ratio` and `resolution` where the model takes these.

    A shape alone is a size, too, for a model that takes sizes only. Nothing to say is an empty answer; None means that
    the model has no word for the size.
    """
    size, ratio = job.input.get("size"), job.input.get("aspect_ratio")
    if size is None or size == "auto":
        worked_out = size_of(ratio, _PIXELS) if model.only_size and isinstance(ratio, str) else None
        return {} if worked_out is None else _say_sides(worked_out)
    if not isinstance(size, str):
        return None
    if not model.ratios:
        return _say_sides(size)
    named, tier = ratio_of(size, model.ratios), tier_of(size, model.tiers)
    if named is None or (model.tiers and tier is None):
        return None
    return {"aspect_ratio": named} | ({} if tier is None else {"resolution": tier})


def _say_sides(size: str) -> dict[str, Any] | None:
    sides = parse_size(size)
    return None if sides is None else {"image_size": {"width": sides[0], "height": sides[1]}}


def _say_film_size(job: Job) -> dict[str, Any] | None:
    """Say the size of a film as `aspect_ratio` and `resolution`; None if there are no words for it."""
    size = job.input.get("size")
    if size is None or size == "auto":
        return {}
    if not isinstance(size, str):
        return None
    ratio, resolution = ratio_of(size, _FILM_RATIOS), resolution_of(size, _RESOLUTIONS)
    return None if ratio is None or resolution is None else {"aspect_ratio": ratio, "resolution": resolution}


def _say_quality(job: Job, model: Model) -> Any:
    """Say the quality in the model's words, if it is known to have any; one that it has no word for is left out."""
    quality = job.input.get("quality")
    if not model.qualities:
        return quality
    return quality_of(quality, model.qualities) if isinstance(quality, str) else None


def _say_files(job: Job, model: Model) -> dict[str, Any]:
    """Name the input pictures by URL or as data URIs: one as `image_url`, several as `image_urls`."""
    images = [place(source) for source in job.files_of(Role.IMAGE)]
    frames = [place(source) for source in job.files_of(Role.FIRST_FRAME)]
    named: dict[str, Any] = {}
    if len(images) > 1 or (images and (model.lists or frames)):
        named["image_urls"] = images
    elif images:
        named["image_url"] = images[0]
    if frames:
        named["image_url"] = frames[0]
    return named
