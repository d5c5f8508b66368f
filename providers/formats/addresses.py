"""Which addresses named by an upstream may be called with its key: its own (provider notes, INDEX 7.2).

A polling URL is used as it was given, because the same id on another host may be unknown there; but the key goes only
to hosts that belong with the configured base_url. Who names the URL has the key already; what is kept out is clear
text, strangers and the inside of our network. Pure: nothing is resolved; the wire connects to what is judged here.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

URL_CHARS = 2048

# Printable ASCII without what parsers disagree about (spaces, quotes, backslashes, brackets) and without a fragment.
_PLAIN_URL = re.compile(r"[!$-;=?-\[\]^_a-z|~]+")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
# Under a country's top level these words are public, and the name that somebody owns has one label more.
_PUBLIC_SECOND_LABELS = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})


def belongs_to(url: str, base_url: str) -> bool:
    """Tell whether a URL is the same provider's as `base_url`.

    The scheme is https or the base's own. The host is the base's, or shares its registrable domain
    (api.us1.bfl.ai and api.bfl.ai); the names and addresses of this machine are one family, any port.
    """
    aim, base = _split(url), _split(base_url)
    if aim is None or base is None:
        return False
    if aim.scheme not in {"https", base.scheme}:
        return False
    return _family(aim.hostname or "") == _family(base.hostname or "")


def _split(url: str) -> SplitResult | None:
    """Take apart a plain absolute http(s) URL without user info; None for any other."""
    if len(url) > URL_CHARS or _PLAIN_URL.fullmatch(url) is None:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc or port == 0 or not parts.hostname:
        return None
    return parts


def _family(host: str) -> str:
    """Name what the hosts of one owner have in common; what is no proper name or address is a family of its own."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        return "loopback" if address.is_loopback else str(address)
    if _HOST_NAME.fullmatch(host) is None:
        return f"invalid {host}"
    labels = host.split(".")
    in_country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _PUBLIC_SECOND_LABELS
    return ".".join(labels[-3 if in_country else -2 :])
