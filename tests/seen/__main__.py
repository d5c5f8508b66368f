"""`python -m tests.seen spine.2 [--short]`."""

from __future__ import annotations

import asyncio
import importlib
import sys


def main() -> int:
    """Run one sight by its name in the issue."""
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    if len(names) != 1:
        print("usage: python -m tests.seen NAME.NUMBER [--short]", file=sys.stderr)
        return 2
    try:
        sight = importlib.import_module(f"tests.seen.{names[0].replace('.', '_')}")
    except ModuleNotFoundError:
        print(f"there is no sight {names[0]}", file=sys.stderr)
        return 2
    return int(asyncio.run(sight.show(short="--short" in sys.argv)))


if __name__ == "__main__":
    sys.exit(main())
