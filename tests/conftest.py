"""What holds for every test: Hypothesis draws the same examples on every machine, and at the end of the run no process
that a test started is left.
"""

import os
import secrets
from collections.abc import Iterator

import hypothesis
import pytest

from tests.leftovers import MARK, list_leftovers
from tests.postgres import end_shared_server
from tests.waiting import poll_until_sync

# Derandomised, so that a red run is red again; without a deadline, because machines differ in speed.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci")

# The SDKs have environments of their own: make test-sdk.
collect_ignore = ["sdk"]

GRACE_S = 10.0


@pytest.fixture(scope="session", autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """Fail the run if a process that it started, or a descendant of one, still lives when the last test has ended.

    It is the first fixture of the session and so the last to be torn down.
    """
    outer = os.environ.get(MARK)
    mark = os.environ[MARK] = secrets.token_hex(8)
    yield
    end_shared_server()
    try:
        poll_until_sync(lambda: not list_leftovers(mark), "the processes of the tests to end", GRACE_S)
    except AssertionError:
        pytest.fail(f"processes left behind: {'; '.join(list_leftovers(mark))}", pytrace=False)
    finally:
        if outer is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = outer
