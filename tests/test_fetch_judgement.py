"""Which URLs and addresses a guarded fetch refuses (reliability-security S1), shown on the judgement alone: nothing of
this is ever connected to.
"""

import pytest

from router.fetch import Aim, FetchAllow, Reach, Refusal, judge, permits

NOTHING = FetchAllow()


def allow(text):
    parsed = FetchAllow.parse(text)
    assert isinstance(parsed, FetchAllow), parsed
    return parsed


# -- addresses --------------------------------------------------------------------------------------------------------

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "198.17.255.255",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2a00:1450:4001:800::200e",
]

CLOSED = [
    "0.0.0.0",  # noqa: S104 - it is judged, not bound
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_reached(address):
    assert permits(address, Reach.PUBLIC, NOTHING)
    assert not permits(address, Reach.LISTED, NOTHING)


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_that_is_not_public_may_not_be_reached(address):
    assert not permits(address, Reach.PUBLIC, NOTHING)
    assert not permits(address, Reach.LISTED, NOTHING)
    assert permits(address, Reach.ANY, NOTHING)


@pytest.mark.parametrize(
    ("address", "listed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.0", False), ("fd00::5", True), ("fd01::5", False)],
)
def test_a_listed_network_may_be_reached(address, listed):
    networks = allow("10.1.0.0/16, fd00::/16")

    assert listed == permits(address, Reach.LISTED, networks)
    assert listed == permits(address, Reach.PUBLIC, networks)


# -- the form of a URL ------------------------------------------------------------------------------------------------

FINE = [
    "https://delivery-eu1.bfl.ai/results/a/sample.jpeg?se=2026&sig=%2Babc%2F%3D",
    "https://example.com",
    "https://EXAMPLE.com:443/",
    "https://example.com:8443/x",
    "https://example.com:80/x",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://例え.jp/パス",
    # A name of a loopback address that only a resolver understands: its form is in order, the guard stops it.
    "https://localhost/",
]

REFUSED = [
    "http://example.com/",
    "http://8.8.8.8/",
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:port/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "data:text/plain,x",
    "//example.com/",
    "example.com",
    "/etc/passwd",
    "",
    "https://",
    "https:///path",
    "https:example.com",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com#@127.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/a b",
    "https://example.com/\r\nHost: internal",
    "https://example.com/\tx",
    "https://exam\x00ple.com/",
    "https://exa\u200bmple.com/",
    "https://127%2e0%2e0%2e1/",
    "https://[fe80::1%25eth0]/",
    "https://[::1/",
    "https://127.0.0.1/",
    "https://0.0.0.0/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd00:ec2::254]/",
    "https://①②⑦.⓪.⓪.①/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127。0。0。1/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://example.com/" + "x" * 2048,
]


@pytest.mark.parametrize("url", FINE)
def test_a_url_in_order_leads_to_public_addresses(url):
    aim = judge(url, NOTHING)

    assert isinstance(aim, Aim)
    assert aim.reach is Reach.PUBLIC


@pytest.mark.parametrize("url", REFUSED)
@pytest.mark.parametrize("origin", [None, "https://api.provider.test/v1"])
def test_a_url_out_of_order_is_refused_and_not_repeated(url, origin):
    refusal = judge(url, NOTHING, origin)

    assert isinstance(refusal, Refusal)
    assert "127" not in refusal.reason
    assert "example" not in refusal.reason


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("http://storage.lan:9000/a", Reach.ANY),
        ("http://STORAGE.LAN.:9000/a", Reach.ANY),
        ("https://storage.lan:9000/a", Reach.ANY),
        ("http://[0:0:0:0:0:0:0:1]:9000/", Reach.ANY),
        ("http://storage.lan:9001/a", Reach.LISTED),
        ("http://10.1.2.3:1234/a", Reach.LISTED),
        ("http://anything.test/a", Reach.LISTED),
        ("https://10.1.2.3/a", Reach.PUBLIC),
        ("http://10.2.2.3/a", None),
        ("https://10.2.2.3/a", None),
        ("http://8.8.8.8/", None),
        ("http://user@storage.lan:9000/a", None),
    ],
)
def test_what_the_operator_lists_may_be_private_and_plain(url, reach):
    aim = judge(url, allow("10.1.0.0/16 storage.lan:9000 [::1]:9000"))

    assert reach == (aim.reach if isinstance(aim, Aim) else None)


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("http://10.9.9.9:7860/files/1.png", True),
        ("http://10.9.9.9:7861/files/1.png", False),
        ("https://10.9.9.9:7860/files/1.png", False),
        ("http://10.9.9.8:7860/files/1.png", False),
        ("http://10.9.9.9.evil.test:7860/", False),
    ],
)
def test_only_the_very_origin_of_the_provider_is_its_own(url, is_own):
    aim = judge(url, NOTHING, "http://10.9.9.9:7860/v1")

    assert is_own == (isinstance(aim, Aim) and aim.reach is Reach.ANY)


def test_every_problem_of_the_setting_is_named():
    problems = FetchAllow.parse("10.0.0.0/8, 10.0.0.1/8, storage, storage:0, a:70000, http://x:1 ::1, [::1]:80, x_1:5")

    assert isinstance(problems, tuple)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "'10.0.0.1/8'",
        "'storage'",
        "'storage:0'",
        "'a:70000'",
        "'http://x:1'",
    ]


def test_an_empty_setting_allows_nothing():
    assert FetchAllow.parse(" ") == FetchAllow()
