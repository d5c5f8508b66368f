"""Every event gives a line; no line gives away a prompt or a secret; writing never holds up the loop."""

import io
import json
import logging
import threading

import pytest

from router.events import AttemptEnded, WebhookTried
from router.outbox import Standing, Try, TryResult
from router.watch.logs import BLOT, QUEUE_MAX, WRITE_AFTER_LINES, Foreign, Log, line_of
from tests.watch.happenings import AT, FAILURE, ONE_OF_EACH, PROMPT, TASK, WEBHOOK, list_event_types


def write(*acts, form="json", level="debug", secrets=()):
    """Let a log do something and return the lines that it wrote."""
    stream = io.StringIO()
    log = Log(stream, form=form, level=level, now=lambda: AT)
    log.hide(secrets)
    for act in acts:
        act(log)
    log.close()
    return stream.getvalue().splitlines()


def test_every_event_has_a_line_and_none_holds_the_prompt():
    lines = write(*(lambda log, event=event: log.read(event) for event in ONE_OF_EACH))

    assert {type(event) for event in ONE_OF_EACH} == list_event_types()
    assert len(lines) == len(ONE_OF_EACH)
    assert len({json.loads(line)["event"] for line in lines}) == len(ONE_OF_EACH)
    assert PROMPT not in "\n".join(lines)


def test_the_line_of_an_attempt_names_task_attempt_and_provider():
    [line] = write(lambda log: log.read(AttemptEnded(AT, TASK, FAILURE)))

    said = json.loads(line)
    assert (said["task"], said["attempt"], said["provider"]) == (TASK.id, 1, "a")
    assert (said["outcome"], said["billing"], said["cost_usd"]) == ("overloaded", "not_billed", "0")
    assert (said["level"], said["event"], said["at"]) == ("warning", "attempt.ended", "2026-11-20T12:00:00.000Z")


@pytest.mark.parametrize(
    ("standing", "level", "name"),
    [
        (Standing.DELIVERED, "info", "webhook.delivered"),
        (Standing.WAITING, "warning", "webhook.failed"),
        (Standing.FAILED, "error", "webhook.given_up"),
        (Standing.DROPPED, "error", "webhook.dropped"),
    ],
)
def test_the_line_of_a_webhook_names_the_host_and_never_the_url(standing, level, name):
    [line] = write(lambda log: log.read(WebhookTried(AT, WEBHOOK, Try(AT, TryResult.REJECTED, 500), standing)))

    said = json.loads(line)
    assert (said["level"], said["event"], said["host"], said["try"]) == (level, name, "hook.example:443", 1)
    assert (said["webhook"], said["task"], said["http_status"]) == (WEBHOOK.id, TASK.id, 500)
    assert "in-the-path" not in line


def test_lines_below_the_level_are_not_written():
    lines = write(*(lambda log, event=event: log.read(event) for event in ONE_OF_EACH), level="error")

    assert {json.loads(line)["event"] for line in lines} == {
        "account.rested",
        "config.rejected",
        "call.cut",
        "life.replaced",
    }
    assert all(line_of(event)[0] == "error" for event in ONE_OF_EACH if line_of(event)[1] == "call.cut")


@pytest.mark.parametrize(
    "text",
    [
        "the key was s3cret-from-the-yaml, it said",
        "Authorization: Bearer abcdefghijklmnop",
        "pm_abcdefgh_abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst",
        "sk-proj-abcdefghijklmnop",
        "whsec_abcdefghijklmnop+/=",
        "http://h/v1/files/task_1/0?exp=1&sig=1.AbCdEf-_gh",
        "postgresql://user:longpassword@host/db",
    ],
)
def test_what_is_secret_or_looks_so_is_blotted_out(text):
    [line] = write(
        lambda log: log.say("info", "x", detail=text, nested={"list": [text]}), secrets=["s3cret-from-the-yaml"]
    )

    assert BLOT in line
    for secret in ("s3cret", "abcdefghijklmnop", "AbCdEf", "longpassword"):
        assert secret not in line


def test_a_secret_in_a_traceback_is_blotted_out_too():
    def fail(log):
        try:
            int("refused key s3cret-from-the-yaml")
        except ValueError as broken:
            log.say("error", "bug", exc_info=broken)

    [line] = write(fail, secrets=["s3cret-from-the-yaml"])
    said = json.loads(line)
    assert "Traceback" in said["exception"]
    assert "s3cret" not in line


def test_a_field_with_the_name_of_a_secret_is_never_shown():
    [line] = write(lambda log: log.say("info", "x", api_key="short"))

    assert json.loads(line)["api_key"] == BLOT


def test_a_line_break_from_outside_stays_inside_its_line():
    lines = write(lambda log: log.say("info", "x", detail='a\n{"event": "forged"}\x1b[31m'))

    assert len(lines) == 1
    assert "\x1b" not in lines[0]


def test_console_lines_are_for_people():
    [line] = write(lambda log: log.say("warning", "config.warning", detail="no fallback"), form="console")

    assert "config.warning" in line
    assert "no fallback" in line
    assert not line.startswith("{")


def test_what_libraries_log_comes_into_the_same_stream():
    def tell(log):
        handler, logger = Foreign(log), logging.getLogger("a.library")
        logger.addHandler(handler)
        try:
            logger.error("it said sk-abcdefghijkl")
            logger.info("not this")
        finally:
            logger.removeHandler(handler)

    [line] = write(tell)
    said = json.loads(line)
    assert (said["logger"], said["level"], said["message"]) == ("a.library", "error", f"it said {BLOT}")


def test_a_stuck_stream_drops_lines_instead_of_waiting():
    gate, stuck = threading.Event(), threading.Event()

    class Stuck(io.StringIO):
        def write(self, text):
            stuck.set()
            gate.wait(60)
            return super().write(text)

    log = Log(Stuck(), form="json", level="debug", now=lambda: AT)
    log.say("info", "first")
    assert stuck.wait(60)
    for _ in range(QUEUE_MAX + 5):
        log.say("info", "more")
    gate.set()
    log.close()
    assert log.dropped == 5


def test_lines_that_come_without_a_pause_are_written_in_parts():
    gate, stuck, sizes = threading.Event(), threading.Event(), []

    class Slow(io.StringIO):
        def write(self, text):
            stuck.set()
            gate.wait(60)
            sizes.append(text.count("\n"))
            return super().write(text)

    log = Log(Slow(), form="json", level="debug", now=lambda: AT)
    log.say("info", "first")
    assert stuck.wait(60)
    for _ in range(3 * WRITE_AFTER_LINES):
        log.say("info", "more")
    gate.set()
    log.close()

    assert sum(sizes) == 1 + 3 * WRITE_AFTER_LINES
    assert max(sizes) <= WRITE_AFTER_LINES


def test_half_a_character_is_written_too():
    stream = io.StringIO()
    log = Log(stream, form="json", level="info", now=lambda: AT)
    log.say("info", "odd", detail="\ud83d")
    log.close()

    assert json.loads(stream.getvalue())["detail"] == "\ud83d"
