"""What fal signs and what it does not: headers, raw body, age and published keys, each of which counts."""

from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from providers import load
from router.provider import Delivery
from tests.providers.exchange import NOW

BODY = b'{"request_id": "req-1", "gateway_request_id": "req-1", "status": "OK", "payload": {"images": []}}'
KEY = Ed25519PrivateKey.generate()
NOW_S = NOW // 1000
SIGNED = ("request-id", "user-id", "timestamp")
HEADER = "x-fal-webhook-"


def jwk_of(key, **changes):
    point = urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": point, **changes}


def delivered(*, key=KEY, body=BODY, timestamp=str(NOW_S), keys=None, request_id="req-1", user_id="user-1"):
    message = "\n".join([request_id, user_id, timestamp, sha256(body).hexdigest()])
    headers = {
        f"{HEADER}request-id": request_id,
        f"{HEADER}user-id": user_id,
        f"{HEADER}timestamp": timestamp,
        f"{HEADER}signature": key.sign(message.encode()).hex(),
    }
    return Delivery(headers, body, "", {"keys": [jwk_of(KEY)]} if keys is None else keys, NOW)


def verify(delivery):
    return load("fal").verify(delivery)


def with_header(name, value):
    delivery = delivered()
    return replace(delivery, headers={**delivery.headers, HEADER + name: value})


def test_what_a_published_key_signed_is_verified():
    assert verify(delivered())


def test_any_of_the_published_keys_may_have_signed():
    others = [jwk_of(Ed25519PrivateKey.generate()) for _ in range(3)]
    assert verify(delivered(keys={"keys": [{"kty": "RSA", "n": "AQAB"}, *others, jwk_of(KEY, kid="2", use="sig")]}))


def test_a_stranger_s_signature_verifies_nothing():
    assert not verify(delivered(key=Ed25519PrivateKey.generate()))


def test_another_body_than_the_signed_one_verifies_nothing():
    assert not verify(replace(delivered(), body=BODY + b" "))
    assert not verify(replace(delivered(), body=b""))


@pytest.mark.parametrize("name", SIGNED)
def test_each_signed_header_counts(name):
    other = str(NOW_S + 1) if name == "timestamp" else "other"
    assert not verify(with_header(name, other))


@pytest.mark.parametrize("name", [*SIGNED, "signature"])
def test_a_missing_or_empty_header_verifies_nothing(name):
    delivery = delivered()
    assert not verify(with_header(name, ""))
    assert not verify(replace(delivery, headers={k: v for k, v in delivery.headers.items() if k != HEADER + name}))


@pytest.mark.parametrize(
    "empty", [{"request_id": ""}, {"user_id": ""}], ids=["an empty request id", "an empty user id"]
)
def test_an_empty_value_is_refused_even_when_it_is_what_was_signed(empty):
    assert not verify(delivered(**empty))


@pytest.mark.parametrize(("age_s", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_a_delivery_counts_for_five_minutes_either_way(age_s, fresh):
    assert verify(delivered(timestamp=str(NOW_S - age_s))) is fresh


@pytest.mark.parametrize("timestamp", ["now", "-1", f"{NOW_S}.5", f" {NOW_S}", "9" * 5000, "٣٤"])
def test_a_timestamp_that_is_no_number_of_seconds_verifies_nothing(timestamp):
    assert not verify(delivered(timestamp=timestamp))


@pytest.mark.parametrize("signature", ["zz", "abc", "00" * 64, "00" * 63, "é" * 128])
def test_a_signature_that_is_none_verifies_nothing(signature):
    assert not verify(with_header("signature", signature))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        [],
        "keys",
        {"keys": None},
        {"keys": []},
        {"keys": [None, "x", {}]},
        {"keys": [jwk_of(KEY, kty="EC")]},
        {"keys": [jwk_of(KEY, crv="X25519")]},
        {"keys": [jwk_of(KEY, x="AAAA")]},
        {"keys": [jwk_of(KEY, x="é!")]},
        {"keys": [jwk_of(KEY, x=7)]},
    ],
)
def test_a_key_set_without_a_usable_key_verifies_nothing(keys):
    assert not verify(delivered(keys=keys))


def test_keys_that_could_not_be_had_verify_nothing():
    assert not verify(replace(delivered(), keys=None))


def test_a_configured_secret_does_not_stand_in_for_the_keys():
    assert not verify(replace(delivered(key=Ed25519PrivateKey.generate()), secret="a secret"))


LATIN = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF) | st.sampled_from("\udcff\udc80"), max_size=40)


@given(values=st.tuples(LATIN, LATIN, LATIN | st.just(str(NOW_S)), LATIN | st.just("00" * 64)), body=st.binary())
def test_no_headers_make_it_raise_or_verify(values, body):
    names = (*SIGNED, "signature")
    headers = {HEADER + name: value for name, value in zip(names, values, strict=True)}
    assert not verify(Delivery(headers, body, "", {"keys": [jwk_of(KEY)]}, NOW))
