"""What must stand in no file of the project, whatever its language. The words are put together here, so that this file
keeps its own rules.
"""

import re
from collections.abc import Iterator

from tests.tidy.sources import Finding, Rule, Source

MARKERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
# A word before the slash makes it a part of another path or of a URL.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~}-])/(?:" + "|".join(("wo" + "rk", "ro" + "ot", "opt/py" + "pi")) + r")(?=[/\s\"'`),;:]|$)"
)
REGISTRIES = re.compile(
    "|".join((r"py" + r"pi\.org", r"python" + r"hosted\.org", r"registry\.npm" + r"js", r"proxy\.golang" + r"\.org")),
)


def _matches(source: Source, pattern: re.Pattern[str], what: str) -> Iterator[Finding]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        for match in pattern.finditer(line):
            yield Finding(number, f"{what} {match[0]!r}")


RULES = (
    Rule(
        "a leftover marker",
        "what is missing is an issue, not a note in a file",
        lambda source: _matches(source, MARKERS, "the marker"),
        python_only=False,
    ),
    Rule(
        "a path of one machine",
        "it is true on one machine only",
        lambda source: _matches(source, MACHINE_PATHS, "the path"),
        python_only=False,
    ),
    Rule(
        "a registry's address",
        "each machine brings its own index",
        lambda source: _matches(source, REGISTRIES, "the host"),
        python_only=False,
    ),
)
