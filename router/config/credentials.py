"""Secrets and addresses of providers: what a reference in the file stands for, and whether it can go into a request.

A secret is `${NAME}`, `file:PATH` or, against good advice, the key itself. One that is unset or empty is no error: its
provider is left out (contract section 6; exclusion `no_credential`). Variables are given as a mapping and files through
a function, so that nothing is read here. No message holds a value, and a variable is named only if its name looks like
one. Floor 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from router.policy.rules import Credential

REFERENCE = "${"
FILE = "file:"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# People shout the names of variables. Anything else in braces may be a key that somebody put there.
_SHOWN_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
# A key goes into a header: visible ASCII, nothing that could end the line.
_KEY = re.compile(r"[\x21-\x7e]{1,8192}")
_ADDRESS = re.compile(r"[\x21-\x7e]{1,2048}")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where references lead. `read_secret` takes the path of a `file:` reference; OSError if it cannot be read."""

    environ: Mapping[str, str]
    read_secret: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing is set there (yet)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """Something is there that cannot be used."""

    reason: str


def find_secret(written: str, number: int, sources: Sources) -> Credential | Absent | Unfit:
    """Follow one `api_key`. `number` is its place among the provider's, from 1, for the label."""
    variable = _VARIABLE.fullmatch(written)
    if variable is not None:
        name = variable[1]
        is_shown = _SHOWN_VARIABLE.fullmatch(name) is not None
        subject = f"the variable {name}" if is_shown else "its variable"
        found = sources.environ.get(name)
        if found is None:
            return Absent(f"{subject} is not set")
        return _make_credential(found, name if is_shown else f"#{number}", subject)
    if REFERENCE in written:
        return Unfit("a reference is ${NAME}, with nothing around it")
    if not written.startswith(FILE):
        return _make_credential(written, f"#{number}", "the key")
    try:
        found = sources.read_secret(written.removeprefix(FILE))
    except FileNotFoundError:
        return Absent("the file that it refers to does not exist")
    except (OSError, ValueError):
        return Unfit("the file that it refers to cannot be read")
    return _make_credential(found, f"#{number}", "the file that it refers to")


def is_reference(written: str) -> bool:
    """Tell whether a secret stands elsewhere and not in the file itself."""
    return REFERENCE in written or written.startswith(FILE)


def find_address(written: str, environ: Mapping[str, str]) -> str | Unfit:
    """Fill the variables of a base URL in and judge it; returns it without a slash at the end."""
    if REFERENCE in _VARIABLE.sub("", written):
        return Unfit("a reference is ${NAME}")
    missing = [name for name in _VARIABLE.findall(written) if not environ.get(name, "").strip()]
    if missing:
        shown = [name for name in missing if _SHOWN_VARIABLE.fullmatch(name)]
        return Unfit(f"the variable {shown[0]} is not set" if shown else "its variable is not set")
    address = _VARIABLE.sub(lambda match: environ[match[1]].strip(), written)
    expected = "must be http(s)://host[:port][/path]"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return Unfit(expected)
    if not _ADDRESS.fullmatch(address) or parts.scheme not in {"http", "https"} or not host or port == 0:
        return Unfit(expected)
    if parts.username is not None or parts.password is not None:
        return Unfit("must not hold a user or a password: the secret belongs into api_key")
    if "?" in address or "#" in address:
        return Unfit(f"{expected}, without ? and #")
    return address.rstrip("/")


def is_loopback(address: str) -> bool:
    """Tell whether a judged address is on this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _make_credential(found: str, label: str, subject: str) -> Credential | Absent | Unfit:
    secret = found.strip()
    if not secret:
        return Absent(f"{subject} is empty")
    if not _KEY.fullmatch(secret):
        return Unfit(f"{subject} holds blanks or characters that no key has")
    return Credential(label, secret)
