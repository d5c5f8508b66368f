"""What polls of jobs have in common: names that are kept, and what counts as a word about the job."""

import pytest

from providers.formats import jobs
from router.provider import Broken, Missing, Reply, Trouble
from tests.providers.exchange import job_of

JOB = job_of("pixapi")


@pytest.mark.parametrize(
    ("value", "name"),
    [("task_1", "task_1"), (4711, "4711"), (2**48, str(2**48)), ("x" * 200, "x" * 200), ("x" * 201, ""), ("", ""),
     (None, ""), (True, ""), (-1, ""), (10**4000, ""), (1.5, ""), (["a"], ""), ("a\nb", "")],
)  # fmt: skip
def test_a_name_is_kept_whole_or_not_at_all(value, name):
    assert jobs.read_id(value) == name


def test_a_status_may_be_nested_and_have_another_name():
    body = {"ticket": {"state": "waiting"}, "status": "ok"}

    assert jobs.hear(Reply(200, {}, body), JOB, "state", within="ticket") == body
    assert isinstance(jobs.hear(Reply(200, {}, body), JOB, "state"), Trouble)
    assert isinstance(jobs.hear(Reply(200, {}, {"ticket": "waiting"}), JOB, "state", within="ticket"), Trouble)


def test_what_is_no_word_about_the_job_is_asked_again():
    assert isinstance(jobs.hear(Broken(sent=True, timed_out=True, detail="gone"), JOB), Trouble)
    assert isinstance(jobs.hear(Reply(404, {}, {"status": "failed"}), JOB), Missing)
    refused = jobs.hear(Reply(401, {"retry-after": "3"}, {"status": "failed"}), JOB)
    assert (refused.refused, refused.after_s) == (True, 3.0)
