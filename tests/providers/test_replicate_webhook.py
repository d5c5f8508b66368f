"""Who may wake us in Replicate's name: only who holds the secret, and only for a few minutes."""

import base64
import hashlib
import hmac

import pytest

from providers import load
from router.provider import Delivery

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_795_000_000_000
BODY = b'{"id":"rp1","status":"succeeded"}'


def sign(body=BODY, *, name="msg_1", stamp=str(NOW // 1000), key=KEY):
    """Sign as the document says: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`."""
    digest = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def is_heard(headers, *, body=BODY, secret=SECRET, now=NOW):
    return load("replicate").verify(Delivery(headers, body, secret, None, now))


def test_a_delivery_that_the_provider_signed_is_heard():
    assert is_heard(sign())


def test_the_signature_is_the_one_that_other_libraries_make():
    """A published example of the same scheme (standard webhooks), computed elsewhere."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert is_heard(headers, body=b'{"test": 2432232314}', secret=secret, now=1_614_265_330_000)


def test_one_right_signature_among_several_is_enough():
    right = sign()
    wrong = sign(key=b"another key")["webhook-signature"]
    both = {**right, "webhook-signature": f"{wrong} v2,abc {right['webhook-signature']}"}
    assert is_heard(both)
    assert not is_heard({**right, "webhook-signature": f"{wrong} v2,abc"})


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_delivery_that_lacks_a_header_is_not_heard(part):
    headers = sign()
    del headers[part]
    assert not is_heard(headers)


def test_nothing_of_what_was_signed_may_change():
    assert not is_heard(sign(), body=BODY + b" ")
    assert not is_heard({**sign(), "webhook-id": "msg_2"})
    assert not is_heard({**sign(), "webhook-timestamp": str(NOW // 1000 + 1)})


@pytest.mark.parametrize("seconds", [-301, 301, -100_000])
def test_a_delivery_of_another_time_is_not_heard(seconds):
    assert not is_heard(sign(stamp=str(NOW // 1000 + seconds)))


@pytest.mark.parametrize("seconds", [-299, 299])
def test_clocks_may_differ_by_minutes(seconds):
    assert is_heard(sign(stamp=str(NOW // 1000 + seconds)))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***", SECRET.removeprefix("whsec_"), "whsec_\N{SNOWMAN}"])
def test_without_a_proper_secret_nothing_is_heard(secret):
    for key in (b"", KEY, secret.encode()):
        assert not is_heard(sign(key=key), secret=secret)


@pytest.mark.parametrize("stamp", ["", "-1", "1e9", "\N{SUPERSCRIPT TWO}", "9" * 5000, "nan"])
def test_a_stamp_that_is_no_time_is_not_heard(stamp):
    assert not is_heard(sign(stamp=stamp))


def test_a_signature_that_is_no_text_is_not_heard():
    assert not is_heard({**sign(), "webhook-signature": "v1,\N{SNOWMAN}\udcff"})
