"""Which polling URLs get the key: the provider's own hosts, this machine by any name, and no look-alike."""

import pytest

from providers.formats.addresses import belongs_to

BFL = "https://api.bfl.ai"
HERE = "http://127.0.0.1:9001"

OWN = [
    (BFL, "https://api.bfl.ai/v1/get_result?id=1"),
    (BFL, "https://api.us1.bfl.ai/v1/get_result?id=7d1f2b4e"),
    (BFL, "https://API.BFL.AI./v1/get_result?id=1"),
    (BFL, "https://api.bfl.ai:8443/v1/get_result"),
    ("https://api.eu.bfl.ai/v1", "https://api.us1.bfl.ai/x"),
    ("https://flux.example.co.uk", "https://poll.example.co.uk/x"),
    ("http://10.0.0.7:80", "http://10.0.0.7:8080/x"),
    ("http://10.0.0.7:80", "https://10.0.0.7/x"),
    ("http://gateway:9000", "http://gateway:9001/x"),
    (HERE, "http://localhost:9002/v1/get_result?id=1"),
    (HERE, "http://[::1]:9002/x"),
    (HERE, "http://127.0.0.2:9002/x"),
    ("http://localhost:9001", "http://bfl.localhost:9001/x"),
]
FOREIGN = [
    (BFL, "http://api.bfl.ai/v1/get_result?id=1"),  # the key in clear text
    (BFL, "https://api.bfl.ai.example.net/x"),
    (BFL, "https://notbfl.ai/x"),
    (BFL, "https://api.bfl.ai@example.net/x"),
    (BFL, "https://user:pass@api.bfl.ai/x"),
    (BFL, "https://example.net\\@api.bfl.ai/x"),
    (BFL, "https://example.net%23@api.bfl.ai/x"),
    (BFL, "https://api.bfl.ai#@example.net/x"),
    (BFL, "https://api.bfl.ai\t.example.net/x"),
    (BFL, "https://api.bfl.ai /x"),
    (BFL, "https://аpi.bfl.ai/x"),  # noqa: RUF001 - a Cyrillic letter is the point
    (BFL, "//api.bfl.ai/x"),
    (BFL, "/v1/get_result?id=1"),
    (BFL, ""),
    (BFL, "https:///x"),
    (BFL, "ftp://api.bfl.ai/x"),
    (BFL, "https://api.bfl.ai:99999/x"),
    (BFL, "https://api.bfl.ai:0/x"),
    (BFL, "https://[::1"),
    (BFL, "https://api.bfl.ai/" + "x" * 2048),
    (BFL, "https://127.0.0.1/x"),
    (BFL, "https://ai/x"),
    ("https://flux.example.co.uk", "https://evil.co.uk/x"),
    ("https://10.0.0.7", "https://10.0.0.8/x"),
    ("https://1.2.3.4", "https://9.9.3.4/x"),
    (HERE, "http://127.0.0.1.example.net/x"),
    (HERE, "http://localhost.example.net/x"),
    (HERE, "http://169.254.169.254/latest/meta-data"),
    ("http://gateway:9000", "http://other:9000/x"),
    ("not a url", "https://api.bfl.ai/x"),
]


@pytest.mark.parametrize(("base_url", "url"), OWN)
def test_a_url_of_the_same_provider_gets_the_key(base_url, url):
    assert belongs_to(url, base_url)


@pytest.mark.parametrize(("base_url", "url"), FOREIGN)
def test_a_url_of_anybody_else_does_not(base_url, url):
    assert not belongs_to(url, base_url)
