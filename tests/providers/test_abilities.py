"""What each upstream model is said to do: sizes, counts and fields, as the providers' pages print them."""

import pytest

from providers import facts
from router.provider import Kind, Role

# adapter, model, sizes that it honours, sizes that it does not
SIZES = [
    ("openai", "gpt-image-2", "auto 1024x1024 2048x2048 3840x2160 2160x3840 1536x512", "1000x1000 1552x512 3856x2160"),
    ("openai", "gpt-image-2", "2880x2880", "3840x2176 4096x4096 1024 1024x 0x1024 1024X1024 -16x16"),
    ("openai", "gpt-image-2.5-sunburst-2026-09-08", "1536x1024 2048x1152", "1537x1024"),
    ("openai", "gpt-image-1.5", "auto 1024x1024 1536x1024 1024x1536", "2048x2048 1792x1024"),
    ("openai", "chatgpt-image-latest", "1024x1536", "512x512"),
    ("openai", "dall-e-3", "auto 1792x1024 1024x1792", "1536x1024"),
    ("dieyuyun", "gpt-image-2", "auto 2048x2048", "1000x1000"),
    ("worldrouter", "gpt-image-2", "auto 1024x1024", "1000x1000"),
    ("worldrouter", "gemini-2.5-flash-image", "auto", "1024x1024 2048x2048"),
    ("openai", "sora-2", "auto 1280x720 720x1280", "1792x1024 1920x1080"),
    ("openai", "sora-2-pro-2025-10-06", "1280x720 1024x1792", "1920x1080"),
    ("apiyi", "gpt-image-2", "auto 2048x2048", "2048x2050"),
    ("apiyi", "veo-3.1-fast", "auto 1280x720 1920x1080", "720x1280 1024x1024 3840x2160 640x360"),
    ("apiyi", "gpt-image-2-all", "auto", "1024x1024"),
    ("bfl", "flux-2-pro", "auto 64x64 1024x1024 2048x2048 4096x1024", "1000x1000 48x1024 2064x2048"),
    ("bfl", "flux-2-klein-9b", "1024x1536", "1024x1530"),
    ("bfl", "flux-pro-1.1", "auto 256x256 1440x1440 1024x768", "224x256 1472x1440 1040x1024"),
    ("bfl", "flux-dev", "1024x1024", "1456x1024"),
    ("bfl", "flux-pro-1.1-ultra", "auto", "1024x1024"),
    ("bfl", "flux-kontext-max", "auto", "1024x1024"),
    ("fal", "fal-ai/flux/dev", "auto 1024x1024 777x333", "16:9 big 0x1024"),
    ("fal", "fal-ai/nano-banana", "auto 1024x1024 832x1248", "2048x2048 1024x100"),
    ("fal", "fal-ai/nano-banana-2/edit", "auto 1024x1024 2048x2048 4096x4096", "256x256 4096x256"),
    ("fal", "openai/gpt-image-2", "auto 1024x1536 3840x2160", "1000x1000"),
    ("fal", "bytedance/seedance-2.0/text-to-video", "auto 1280x720 1080x1920 480x480", "3840x2160 1280x300"),
    ("fal", "acme/anything", "auto 640x480", "large"),
    ("replicate", "black-forest-labs/flux-schnell", "auto 1024x1024 1344x768 768x1344", "2048x2048 1024x400"),
    ("replicate", "black-forest-labs/flux-kontext-pro", "auto 1024x1536", "3840x2160"),
    ("replicate", "bytedance/seedance-1-lite", "auto 1280x720 1080x1920 864x480", "1024x1536 3840x2160"),
    ("replicate", "somebody/some-model", "auto", "1024x1024"),
    ("ark", "doubao-seedream-4-0-250828", "auto 1024x1536 4096x4096 4096x2304", "4096x4112 2K"),
    ("ark", "doubao-seedance-1-0-pro-250528", "auto 1280x720 1080x1920 480x480", "3840x2160 1000x200"),
    ("ark", "seedance-2-0-260128", "3840x2160 864x480", "256x256"),
    ("gemini", "gemini-2.5-flash-image", "auto 1024x1024 1344x768", "2048x2048 512x512 1024x256"),
    ("gemini", "gemini-3-pro-image", "auto 2048x2048 4096x4096 1536x672", "512x512 2048x512"),
    ("gemini", "gemini-3.1-flash-image", "512x512 2048x512 4096x4096", "256x256 1000x100"),
    ("veo", "veo-3.1-generate-001", "auto 1280x720 1080x1920 3840x2160", "1024x1024 640x360"),
    ("veo", "veo-3.1-lite-generate-001", "720x1280 1920x1080", "3840x2160"),
]


@pytest.mark.parametrize(("slug", "model", "honoured", "not_honoured"), SIZES)
def test_a_size_is_taken_if_it_can_be_honoured(slug, model, honoured, not_honoured):
    sizes = facts(slug).of_model(model).sizes
    assert [size for size in honoured.split() if not sizes.fits(size)] == []
    assert [size for size in not_honoured.split() if sizes.fits(size)] == []


@pytest.mark.parametrize(
    ("slug", "model", "max_n"),
    [
        ("openai", "gpt-image-2", 10),
        ("openai", "dall-e-3", 1),
        ("openai", "some-model-elsewhere", 10),
        ("dieyuyun", "gpt-image-2", 10),
        ("pixapi", "anything", 10),
        ("pointsman", "anything", 10),
        ("worldrouter", "gpt-image-2", 4),
        ("gemini", "gemini-3-pro-image", 1),
        ("veo", "veo-3.1-generate-001", 1),
        ("worldrouter", "gemini-3-pro-image-preview", 1),
        ("apiyi", "gpt-image-2", 10),
        ("apiyi", "gpt-image-2-all", 1),
        ("apiyi", "gpt-image-2-vip", 1),
        ("apiyi", "flux-2-pro", 1),
        ("bfl", "flux-2-pro", 1),
        ("bfl", "flux-3-max", 1),
        ("fal", "fal-ai/flux/schnell", 4),
        ("fal", "bytedance/seedance-2.0/text-to-video", 1),
        ("replicate", "black-forest-labs/flux-schnell", 1),
        ("ark", "seedream-4-0-250828", 15),
        ("ark", "doubao-seedream-3-0-t2i-250415", 1),
        ("ark", "ep-20261120-abcde", 1),
    ],
)
def test_a_target_makes_so_many_at_a_time(slug, model, max_n):
    assert facts(slug).of_model(model).max_n == max_n


@pytest.mark.parametrize(
    ("slug", "model", "taken", "dropped"),
    [
        (
            "openai",
            "gpt-image-2",
            "prompt quality background output_format moderation user",
            "style seed input_fidelity",
        ),
        ("openai", "dall-e-3", "prompt style quality", "background output_format"),
        ("openai", "gpt-image-2.5-flare", "partial_images complexity svg", "input_fidelity"),
        ("openai", "gpt-image-1.5", "input_fidelity partial_images", "style"),
        ("apiyi", "gpt-image-2", "prompt quality", "input_fidelity"),
        ("apiyi", "veo-3.1", "prompt seconds size resolution", "aspect_ratio seed negative_prompt"),
        ("apiyi", "gpt-image-2-all", "prompt", "quality mask size background"),
        ("apiyi", "gpt-image-2-vip", "prompt size", "quality mask"),
        ("bfl", "flux-2-pro", "prompt size seed safety_tolerance output_format input_image_8", "quality style steps"),
        ("bfl", "flux-2-flex", "steps guidance prompt_upsampling", "quality aspect_ratio"),
        ("bfl", "flux-kontext-pro", "aspect_ratio input_image", "size raw"),
        ("bfl", "flux-pro-1.1-ultra", "aspect_ratio raw image_prompt", "size steps"),
        ("fal", "fal-ai/flux/dev", "prompt negative_prompt num_inference_steps output_format", "quality seconds"),
        ("fal", "openai/gpt-image-2", "prompt quality size", "seconds resolution"),
        ("fal", "bytedance/seedance-2.0/text-to-video", "seconds resolution aspect_ratio", "quality output_format"),
        ("ark", "doubao-seedream-4-0-250828", "size output_format watermark", "seed guidance_scale quality"),
        ("ark", "doubao-seedream-3-0-t2i-250415", "seed guidance_scale", "output_format tools"),
        ("ark", "doubao-seedance-1-0-pro-250528", "seconds size resolution seed camera_fixed", "callback_url quality"),
    ],
)
def test_a_model_takes_the_fields_of_its_page(slug, model, taken, dropped):
    fields = facts(slug).of_model(model).fields
    assert set(taken.split()) <= fields
    assert not set(dropped.split()) & fields


IMAGE, EDIT, VIDEO, CHAT = Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT, Kind.VIDEO_GENERATION, Kind.CHAT_COMPLETION


@pytest.mark.parametrize(
    ("slug", "model", "kinds"),
    [
        ("openai", "gpt-image-2", {IMAGE, EDIT}),
        ("openai", "dall-e-3", {IMAGE}),
        ("openai", "gpt-5-mini", {IMAGE, EDIT, VIDEO, CHAT}),
        ("openai", "sora-2", {VIDEO}),
        ("apiyi", "gpt-image-2-all", {IMAGE, EDIT}),
        ("apiyi", "veo-3.1-fast", {VIDEO}),
        ("apiyi", "MiniMax-H3", set()),
        ("apiyi", "wan-3", {IMAGE, EDIT, VIDEO, CHAT}),
        ("fal", "fal-ai/flux/dev", {IMAGE}),
        ("fal", "fal-ai/flux/dev/image-to-image", {EDIT}),
        ("fal", "fal-ai/nano-banana/edit", {EDIT}),
        ("fal", "fal-ai/bytedance/seedance/v1/pro/text-to-video", {VIDEO}),
        ("fal", "acme/anything", {IMAGE, EDIT, VIDEO}),
        ("replicate", "black-forest-labs/flux-schnell", {IMAGE}),
        ("replicate", "black-forest-labs/flux-kontext-max", {IMAGE, EDIT}),
        ("replicate", "bytedance/seedance-1-lite", {VIDEO}),
        ("replicate", "stability-ai/sdxl:39ed52f2", {IMAGE, EDIT, VIDEO}),
        ("ark", "seedream-4-0-250828", {IMAGE, EDIT}),
        ("ark", "doubao-seedance-1-0-pro-250528", {VIDEO}),
        ("ark", "ep-20261120-abcde", {IMAGE, EDIT, VIDEO}),
        ("gemini", "gemini-3-pro-image", {IMAGE, EDIT}),
        ("veo", "veo-3.1-fast-generate-001", {VIDEO}),
    ],
)
def test_a_model_does_the_kinds_of_its_page(slug, model, kinds):
    assert facts(slug).of_model(model).kinds == kinds


@pytest.mark.parametrize(
    ("slug", "model", "max_images", "roles", "takes_urls"),
    [
        ("openai", "gpt-image-2", 16, {Role.MASK}, True),
        ("openai", "some-model-elsewhere", 16, {Role.MASK, Role.FIRST_FRAME}, False),
        ("openai", "sora-2-pro", 0, {Role.FIRST_FRAME}, False),
        ("openai", "dall-e-3", 0, set(), False),
        ("apiyi", "gpt-image-2", 16, {Role.MASK}, False),
        ("apiyi", "gpt-image-2-vip", 16, set(), False),
        ("apiyi", "veo-3.1", 0, set(), False),
        ("fal", "fal-ai/flux/dev", 0, set(), False),
        ("fal", "fal-ai/flux/dev/image-to-image", 1, set(), True),
        ("fal", "fal-ai/nano-banana-2/edit", 16, set(), True),
        ("fal", "bytedance/seedance-2.0/image-to-video", 16, {Role.FIRST_FRAME}, True),
        ("replicate", "black-forest-labs/flux-kontext-pro", 1, set(), True),
        ("replicate", "bytedance/seedance-2.0-fast", 9, {Role.FIRST_FRAME, Role.LAST_FRAME}, True),
        ("replicate", "stability-ai/sdxl", 1, {Role.MASK, Role.FIRST_FRAME, Role.LAST_FRAME}, True),
        ("ark", "doubao-seedream-4-0-250828", 10, set(), True),
        ("ark", "doubao-seedance-1-0-pro-250528", 4, {Role.FIRST_FRAME, Role.LAST_FRAME}, True),
        ("gemini", "gemini-2.5-flash-image", 14, set(), False),
        ("veo", "veo-3.1-generate-001", 3, {Role.FIRST_FRAME, Role.LAST_FRAME}, False),
    ],
)
def test_a_model_takes_the_files_of_its_page(slug, model, max_images, roles, takes_urls):
    abilities = facts(slug).of_model(model)
    assert (abilities.max_images, abilities.roles, abilities.takes_urls) == (max_images, roles, takes_urls)


def test_a_film_has_the_lengths_that_its_page_prints():
    assert facts("apiyi").of_model("veo-3.1-fast").seconds == {4, 6, 8}
    assert facts("veo").of_model("veo-3.1-generate-001").seconds == {4, 6, 8}


@pytest.mark.parametrize(("slug", "model"), [("openai", "sdxl"), ("apiyi", "seedream-4"), ("fal", "acme/anything")])
def test_a_model_that_nobody_knows_gets_every_field(slug, model):
    abilities = facts(slug).of_model(model)
    assert abilities.fields is None
    assert abilities.sizes is None or abilities.sizes.fits("777x333")


def test_what_needs_an_image_is_not_offered_a_prompt():
    assert facts("bfl").of_model("flux-pro-1.0-fill").kinds == frozenset()
    assert facts("bfl").of_model("flux-2-pro").kinds == {Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT}
    assert facts("bfl").of_model("flux-pro-1.1").kinds == {Kind.IMAGE_GENERATION}


def test_only_bfl_lets_refusals_go_free_and_nobody_knows_a_key_that_makes_a_repeat_safe():
    assert [slug for slug in ("apiyi", "bfl", "openai") if facts(slug).refusals_free] == ["bfl"]
    assert not any(facts(slug).idempotent for slug in ("apiyi", "bfl", "openai"))


@pytest.mark.parametrize(
    ("slug", "model", "remixes"),
    [
        ("openai", "sora-2", True),
        ("openai", "some-model-elsewhere", True),
        ("openai", "gpt-image-2", False),
        ("pointsman", "anything", True),
        # Its pages print create, retrieve and content, and nothing else of the form.
        ("apiyi", "veo-3.1-fast", False),
        ("apiyi", "wan-3", False),
        ("veo", "veo-3.1-generate-001", False),
    ],
)
def test_a_film_is_made_anew_where_the_page_says_so(slug, model, remixes):
    assert facts(slug).of_model(model).remixes == remixes
