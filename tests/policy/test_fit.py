"""Whether a target could serve a request: every reason, the order in which they are asked, and what may be dropped."""

from dataclasses import replace

import pytest

from router.geometry import Sizes
from router.policy.fit import Exclusion, Reason, find_misfit, is_named, untaken_by, wishes_of
from router.policy.price import quote
from router.policy.rules import Shape
from router.provider import Abilities, Kind, Role
from router.task import Preferences
from tests.policy.rulebook import CENT, IMAGES, NO_WISHES, PICTURE, provider, target

SQUARE = Sizes(named=frozenset({"1024x1024"}))
NARROW = Abilities(
    kinds=frozenset({Kind.IMAGE_GENERATION}), max_n=2, sizes=SQUARE, fields=frozenset({"prompt", "size"})
)
SIZELESS = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), fields=frozenset({"prompt"}))
FILMS = Abilities(kinds=frozenset({Kind.VIDEO_GENERATION}), fields=frozenset({"prompt", "seconds"}))
FILMS_OF_FIVE = Abilities(
    kinds=frozenset({Kind.VIDEO_GENERATION}), fields=frozenset({"prompt", "seconds"}), seconds=frozenset({5})
)
FILM = Shape(Kind.VIDEO_GENERATION, "m", seconds=4, fields=frozenset({"prompt", "seconds"}))


def misfit(one, shape=PICTURE, preferences=NO_WISHES, *, priced_only=False, credentials=1):
    account = provider(one.provider, credentials=credentials)
    return find_misfit(one, account, quote(one.price, shape), shape, preferences, priced_only=priced_only)


def asking(*fields, **said):
    return replace(PICTURE, fields=PICTURE.fields | set(fields), **said)


PLAIN = target("a", at="acme")
NARROW_ONE = target("a", at="acme", abilities=NARROW)


@pytest.mark.parametrize(
    ("one", "shape", "preferences", "reason", "param"),
    [
        (PLAIN, PICTURE, Preferences(only=("b",)), Reason.NOT_IN_ONLY, "provider.only"),
        (PLAIN, PICTURE, Preferences(ignore=("a",)), Reason.IGNORED, "provider.ignore"),
        (PLAIN, PICTURE, Preferences(ignore=("acme",)), Reason.IGNORED, "provider.ignore"),
        (PLAIN, PICTURE, Preferences(only=("acme",), ignore=("a",)), Reason.IGNORED, "provider.ignore"),
        (PLAIN, replace(PICTURE, kind=Kind.IMAGE_EDIT), NO_WISHES, Reason.KIND, "model"),
        (NARROW_ONE, asking(size="1000x1000"), NO_WISHES, Reason.SIZE, "size"),
        (target("a", abilities=SIZELESS), PICTURE, NO_WISHES, Reason.SIZE, "size"),
        (target("a", abilities=replace(NARROW, max_n=0)), asking("n"), NO_WISHES, Reason.COUNT, "n"),
        (NARROW_ONE, replace(PICTURE, images=1), NO_WISHES, Reason.INPUT, "image"),
        (NARROW_ONE, replace(PICTURE, roles=frozenset({Role.MASK})), NO_WISHES, Reason.INPUT, "mask"),
        (NARROW_ONE, replace(PICTURE, roles=frozenset({Role.FIRST_FRAME})), NO_WISHES, Reason.INPUT, "input_reference"),
        (NARROW_ONE, asking("seconds"), NO_WISHES, Reason.UNSUPPORTED, "seconds"),
        (target("a", abilities=FILMS_OF_FIVE), FILM, NO_WISHES, Reason.SECONDS, "seconds"),
        (NARROW_ONE, asking("quality", "style"), Preferences(require_parameters=True), Reason.UNSUPPORTED, "quality"),
        (PLAIN, PICTURE, Preferences(max_price={"task": 3 * CENT}), Reason.MAX_PRICE, "provider.max_price"),
        (
            PLAIN,
            replace(PICTURE, n=3),
            Preferences(max_price={"image": 4 * CENT - 1}),
            Reason.MAX_PRICE,
            "provider.max_price",
        ),
        (
            target("a", cents=None),
            PICTURE,
            Preferences(max_price={"task": CENT}),
            Reason.PRICE_UNKNOWN,
            "provider.max_price",
        ),
    ],
)
def test_a_target_that_cannot_serve_says_why_and_names_the_field(one, shape, preferences, reason, param):
    found = misfit(one, shape, preferences)

    assert isinstance(found, Exclusion)
    assert (found.target, found.provider) == (one.name, one.provider)
    assert (found.reason, found.param) == (reason, param)
    assert found.detail


@pytest.mark.parametrize(
    ("one", "shape", "preferences"),
    [
        (PLAIN, PICTURE, NO_WISHES),
        (PLAIN, PICTURE, Preferences(only=("acme",))),
        (PLAIN, PICTURE, Preferences(only=("x", "a"), ignore=("y",))),
        (NARROW_ONE, PICTURE, Preferences(require_parameters=True)),
        (NARROW_ONE, asking("n", n=2), Preferences(require_parameters=True)),
        (NARROW_ONE, asking("quality", "style"), NO_WISHES),
        (NARROW_ONE, asking(size=None), NO_WISHES),
        (target("a", abilities=SIZELESS), asking(size="auto"), Preferences(require_parameters=True)),
        (NARROW_ONE, asking("quality", quality="auto"), Preferences(require_parameters=True)),
        (NARROW_ONE, asking("stream", "response_format", "model"), Preferences(require_parameters=True)),
        (target("a", abilities=IMAGES), asking("style", "seed", "seconds"), Preferences(require_parameters=True)),
        (target("a", abilities=replace(IMAGES, max_images=2)), replace(PICTURE, images=2), NO_WISHES),
        (PLAIN, PICTURE, Preferences(max_price={"task": 4 * CENT, "image": 4 * CENT, "video_second": 0})),
        (PLAIN, replace(PICTURE, n=3), Preferences(max_price={"image": 4 * CENT})),
        (target("a", cents=None), PICTURE, NO_WISHES),
        (target("a", cents=None), PICTURE, Preferences(max_price={"video_second": 1})),
    ],
)
def test_a_target_that_can_serve_is_let_through(one, shape, preferences):
    assert misfit(one, shape, preferences) is None


def test_a_limit_per_second_of_video_counts_all_seconds():
    one = replace(target("a", abilities=FILMS), price=replace(PLAIN.price, image=None, video_second={"default": 10}))

    assert misfit(one, FILM, Preferences(max_price={"video_second": 10, "image": 0})) is None
    assert misfit(one, FILM, Preferences(max_price={"video_second": 9})).reason is Reason.MAX_PRICE
    assert misfit(one, FILM, Preferences(max_price={"task": 39})).reason is Reason.MAX_PRICE


def test_a_target_without_a_price_is_left_out_wherever_a_budget_applies():
    unpriced = target("a", cents=None)

    assert misfit(unpriced, priced_only=True).reason is Reason.PRICE_UNKNOWN
    assert misfit(unpriced, priced_only=True).param is None
    assert misfit(PLAIN, priced_only=True) is None


def test_a_missing_credential_is_told_only_when_nothing_else_is_in_the_way():
    assert misfit(PLAIN, credentials=0).reason is Reason.NO_CREDENTIAL
    assert misfit(NARROW_ONE, asking(size="1000x1000"), credentials=0).reason is Reason.SIZE


def test_reasons_are_asked_in_the_order_of_the_contract():
    hopeless = target("a", cents=None, abilities=replace(NARROW, max_n=0))
    shape = Shape(Kind.IMAGE_EDIT, "m", size="9x9", n=9, fields=frozenset({"prompt", "size", "n", "seconds"}))
    preferences = Preferences(only=("b",), ignore=("a",), max_price={"task": 1})
    mended = [
        (Reason.NOT_IN_ONLY, {}, {"only": ()}),
        (Reason.IGNORED, {}, {"ignore": ()}),
        (Reason.KIND, {"kind": Kind.IMAGE_GENERATION}, {}),
        (Reason.SIZE, {"size": "1024x1024"}, {}),
        (Reason.COUNT, {}, {}),
        (Reason.UNSUPPORTED, {"fields": frozenset({"prompt"})}, {}),
        (Reason.PRICE_UNKNOWN, {}, {"max_price": {}}),
        (Reason.NO_CREDENTIAL, {}, {}),
    ]

    met = []
    for _reason, of_shape, of_preferences in mended:
        met.append(misfit(hopeless, shape, preferences, credentials=0).reason)
        if met[-1] is Reason.COUNT:
            hopeless = target("a", cents=None, abilities=NARROW)
        shape, preferences = replace(shape, **of_shape), replace(preferences, **of_preferences)

    assert met == [reason for reason, _, _ in mended]


def test_fields_that_a_target_does_not_take_are_told_in_alphabetical_order():
    wishes = wishes_of(asking("style", "quality", "n", "model", "background"))

    assert untaken_by(NARROW_ONE, wishes) == ("background", "quality", "style")
    assert untaken_by(PLAIN, wishes) == ()


def test_a_name_means_a_target_or_all_targets_of_a_provider():
    assert is_named(PLAIN, ["a"])
    assert is_named(PLAIN, ["x", "acme"])
    assert not is_named(PLAIN, ["a*", "acm", ""])
