"""Twenty tasks of each adapter while everything goes wrong at its provider; `make soak` runs two hundred."""

import pytest

from providers import known
from tests.providers.proofs import setup_of
from tests.providers.soak import soak

TASKS = 20


@pytest.mark.parametrize("slug", [slug for slug in known() if setup_of(slug)])
async def test_no_task_is_lost_and_none_is_paid_for_twice_whatever_the_provider_does(slug, tmp_path):
    report = await soak(slug, TASKS, tmp_path)

    assert report.wrong == [], report
    assert report.struck > 0, "the dial was turned"
