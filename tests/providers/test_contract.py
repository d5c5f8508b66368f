"""Every adapter, found by discovery, against its transcript and against what holds for all of them.

The transcript says what must be sent and concluded; the table below says what contract section 6 makes of every status,
written down a second time on purpose. A new adapter is covered by being there.
"""

import json
from dataclasses import asdict, replace

import pytest

from providers import known, load
from router.outcome import DETAIL_MAX_CHARS, FACTS, Billed, Ejects, Fail, FailureKind
from router.provider import Broken, Done, Handle, Media, Missing, Pending, Reply, Trouble, Usage
from tests.providers import matrix
from tests.providers.exchange import (
    MANDATORY,
    ONLY_WITH_JOBS,
    Script,
    drive,
    errors_of,
    exchanges_of,
    job_of,
    module_of,
    read,
    reply_of,
    shown,
    tell_stream,
)

SLUGS = known()
EXCHANGES = [pytest.param(one, id=f"{slug}-{one.name}") for slug in SLUGS for one in exchanges_of(slug)]
ROWS = [pytest.param(one, id=f"{slug}-{one.name}") for slug in SLUGS for one in errors_of(slug)]
FORMS = ("json", "html", "empty")
STATUSES = range(100, 600)
PIECE = 8

# Contract 6, retry facts: status -> (outcome, what is put aside). What is missing goes by `_by_hundred`.
BY_STATUS = {
    **dict.fromkeys((401, 402, 403), ("account", "credential")),
    **dict.fromkeys((404, 405, 415), ("unsupported", "target")),
    **dict.fromkeys((408, 499, 504, 520, 522, 524), ("unknown", "nothing")),
    **dict.fromkeys((521, 523, 525, 526), ("unsent", "nothing")),
    **dict.fromkeys((503, 529), ("overloaded", "nothing")),
    429: ("throttled", "nothing"),
}


def _by_hundred(status, form):
    if status < 200:
        return "unknown", "nothing"
    if status < 300:
        return "unusable", "nothing"
    if status < 500:
        return "bad_request", "nothing"
    return ("server_error" if form == "json" else "unknown"), "nothing"


def _answer(slug, status, form):
    bodies = {"json": {"json": read(slug)["error_body"]}, "html": {"text": "<html>boom</html>"}, "empty": {}}
    return reply_of({"status": status, **bodies[form]})


def _submit(slug, answer, **changes):
    return drive(load(slug).submit(job_of(slug, **changes), Script(answer)))


# -- the transcripts ------------------------------------------------------------------------------------------------


def test_adapters_are_there():
    assert {"apiyi", "bfl", "openai"} <= set(SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_every_mandatory_scenario_is_recorded(slug):
    names = [one.name for one in exchanges_of(slug)]
    assert [name for name in MANDATORY if name not in names] == []
    assert read(slug)["errors"], "the error table is empty"


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_exchange_names_the_documentation_it_comes_from(exchange):
    assert len(exchange.spec["source"]) > 10


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_exchange_goes_as_recorded(exchange):
    concluded, sent = exchange.play()
    wanted = exchange.spec.get("sent")
    if wanted == "nothing":
        assert sent == []
    else:
        wanted = wanted if isinstance(wanted, list) else [wanted or {}]
        assert len(sent) == len(wanted), "one turn is one exchange, where the transcript does not list several"
        for request, one in zip(sent, wanted, strict=True):
            _check_sent(request, one, exchange.job.credential)
    if isinstance(concluded, list):
        assert tell_stream(concluded) == exchange.spec["told"]
        concluded = concluded[-1]
    _check_concluded(concluded, exchange.spec["concluded"])


def _check_sent(request, wanted, credential):
    written = shown(request)
    for part, value in wanted.items():
        if part == "headers":
            assert value.items() <= written["headers"].items()
        else:
            assert written[part] == value, part
    assert request.method in {"GET", "POST", "PUT", "DELETE"}
    assert request.method == "POST" or not (request.json or request.form)
    assert credential in " ".join(request.headers.values())
    assert credential not in request.url
    assert credential not in json.dumps([written["json"], written["form"]])


def _check_concluded(concluded, wanted):
    [(what, expected)] = wanted.items()
    match concluded:
        case None:
            assert (what, expected) == ("nothing", None), "a cancel that is not confirmed, a probe that went well"
        case Done():
            assert what == "done"
            assert concluded.media == tuple(Media(**media) for media in expected["media"])
            assert concluded.usage == Usage(**expected["usage"])
            _check_fields(concluded, expected, skip={"media", "usage"})
        case Pending():
            assert what == "pending"
            assert concluded.handle == Handle(expected["remote_id"], expected["fields"])
            _check_fields(concluded, expected, skip={"remote_id", "fields"})
        case Fail():
            assert what == "fail", concluded
            assert {"kind", "billed", "ejects"} <= expected.keys(), "a failure says these three"
            _check_fields(concluded, expected)
        case Trouble() | Missing():
            assert what == type(concluded).__name__.lower()
            _check_fields(concluded, expected)


def _check_fields(concluded, expected, skip=frozenset()):
    for name, value in expected.items():
        if name == "detail":
            assert value in concluded.detail
        elif name not in skip:
            assert getattr(concluded, name) == value, name


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_error_table_is_judged_as_printed(row):
    failed, _sent = row.play()
    failed = failed[-1] if isinstance(failed, list) else failed
    assert isinstance(failed, Fail)
    facts = FACTS[failed.kind]
    told = {
        "outcome": failed.kind.value,
        "billed": failed.billed.value,
        "breaker": facts.health.value,
        "ejects": failed.ejects.value,
        "failover": facts.other.value,
        "param": failed.param,
    }
    assert told == {name: row.spec.get(name) for name in told}


@pytest.mark.parametrize("slug", SLUGS)
def test_what_is_said_not_to_occur_does_not(slug):
    """A provider without jobs accepts none, whatever it is told, and has none to ask after; one with jobs shows all."""
    cannot = {one.name for one in exchanges_of(slug) if one.spec.get("cannot")}
    if not cannot:
        concluded = {name for one in exchanges_of(slug) for name in one.spec["concluded"]}
        assert {"pending", "missing", "done", "fail"} <= concluded
        return
    assert cannot == ONLY_WITH_JOBS
    url = f"{read(slug)['base_url']}/v1/jobs/job_1"
    for status in STATUSES:
        body = {"id": "job_1", "task_id": "job_1", "status": "queued", "polling_url": url, "data": None}
        assert isinstance(_submit(slug, reply_of({"status": status, "json": body})), Fail)
    assert isinstance(drive(load(slug).poll(Handle("job_1"), job_of(slug), Script(None))), Missing)


@pytest.mark.parametrize("slug", SLUGS)
def test_what_was_delivered_says_what_it_used_or_what_it_cost(slug):
    for exchange in exchanges_of(slug):
        concluded, _sent = exchange.play()
        if isinstance(concluded, Done) and not (exchange.spec.get("no_usage") or exchange.spec.get("reports_nothing")):
            assert concluded.usage != Usage() or concluded.cost_nanos is not None, exchange.name
    done = next(one for one in exchanges_of(slug) if one.name == "done")
    assert "no_usage" not in done.spec, "the mandatory exchange shows the bill"
    answer = done.answer[-1] if isinstance(done.answer, list) else done.answer
    assert done.play()[0].usage == module_of(slug).usage(answer.data)


# -- every status ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slug", SLUGS)
def test_every_status_is_judged_by_the_contract(slug, form):
    """A provider's own data may say otherwise of a server error with its own body (contract 6): `by_status`."""
    told, expected = {}, {}
    otherwise = read(slug).get("by_status", {})
    assert all(status in {500, 502} and kind == "unknown" for status, kind in otherwise.items())
    for status in STATUSES:
        kind, ejects = BY_STATUS.get(status) or _by_hundred(status, form)
        if form == "json" and status in otherwise:
            kind = otherwise[status]
        expected[status] = (kind, FACTS[FailureKind(kind)].billed.value, ejects, status)
        failed = _submit(slug, _answer(slug, status, form))
        assert isinstance(failed, Fail), status
        told[status] = (failed.kind.value, failed.billed.value, failed.ejects.value, failed.http_status)
    assert told == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slug", SLUGS)
def test_a_submit_means_what_the_pure_function_says(slug, form):
    for status in (200, 302, 400, 403, 404, 429, 500, 503, 524):
        answer = _answer(slug, status, form)
        body = answer.data if answer.is_json else answer.text or None
        assert _submit(slug, answer) == module_of(slug).fail(status, {}, body)


@pytest.mark.parametrize("slug", SLUGS)
def test_what_was_not_sent_is_free_and_what_was_sent_is_not_called_so(slug):
    unsent = _submit(slug, Broken(sent=False, timed_out=True, detail="no connection in time"))
    assert (unsent.kind, unsent.billed) == (FailureKind.UNSENT, Billed.NO)
    for timed_out in (True, False):
        lost = _submit(slug, Broken(sent=True, timed_out=timed_out, detail="gone"))
        assert lost.kind is FailureKind.UNKNOWN
        assert lost.billed is not Billed.NO
        assert lost.ejects is Ejects.NOTHING


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slug", SLUGS)
def test_a_poll_that_goes_wrong_never_ends_a_paid_job(slug, form):
    handle = Handle("job_1", {"polling_url": f"{read(slug)['base_url']}/v1/get_result?id=job_1"})
    job = job_of(slug)
    for status in STATUSES:
        polled = drive(load(slug).poll(handle, job, Script(_answer(slug, status, form))))
        assert isinstance(polled, Trouble | Missing | Pending), status
    for sent in (True, False):
        broken = Broken(sent=sent, timed_out=True, detail="gone")
        assert isinstance(drive(load(slug).poll(handle, job, Script(broken))), Trouble | Missing)


# -- what a detail may hold -----------------------------------------------------------------------------------------


def _echoes(credential):
    """Spell out the ways in which an upstream gives a key back: whole, cut off, torn, and across our own cut."""
    half = len(credential) // 2
    yield credential
    yield f"Bearer {credential}"
    yield f"{credential[:half]}..."
    yield f"...{credential[-half:]}"
    yield f"{credential[:half]}\r\n\x1b[31m{credential[half:]}"
    yield from ("x" * before + credential for before in range(DETAIL_MAX_CHARS - 60, DETAIL_MAX_CHARS, 7))


def _bodies(text):
    yield {"json": {"error": {"message": text, "type": text, "code": text, "param": text}}}
    yield {"json": {"error": text, "message": text}}
    yield {"json": {"detail": text}}
    yield {"json": {"detail": [{"loc": ["body", text], "msg": text}]}}
    yield {"json": {"status": "Error", "error": text, "message": text, "details": {text: [text]}}}
    yield {"text": f"<html>{text}</html>"}
    yield {"text": text}


def _words_of(answer):
    told = asdict(answer)
    return [told[name] for name in ("detail", "param") if told.get(name)]


@pytest.mark.parametrize("slug", SLUGS)
def test_no_piece_of_the_credential_gets_into_a_detail(slug):
    job, adapter = job_of(slug), load(slug)
    pieces = {job.credential[at : at + PIECE] for at in range(len(job.credential) - PIECE + 1)}
    answers = [
        reply_of({"status": status, "headers": {"retry-after": text}, **body})
        for text in _echoes(job.credential)
        for status in (200, 400, 403, 422, 429, 500, 503)
        for body in _bodies(text)
    ]
    answers += [Broken(sent=sent, timed_out=False, detail=job.credential) for sent in (True, False)]
    for answer in answers:
        for told in (
            drive(adapter.submit(job, Script(answer))),
            drive(adapter.poll(Handle("job_1"), job, Script(answer))),
        ):
            for words in _words_of(told):
                assert not any(piece in words for piece in pieces), (answer, words)


@pytest.mark.parametrize("slug", SLUGS)
def test_hostile_text_becomes_one_printable_line(slug):
    text = "\x1b[2J\r\n\x00<script>alert(1)</script>\u202e" + "\N{PILE OF POO}" * 5000
    for body in _bodies(text):
        for status in (200, 400, 503):
            failed = _submit(slug, reply_of({"status": status, **body}))
            assert failed.detail.isprintable()
            assert 0 < len(failed.detail) <= DETAIL_MAX_CHARS
            assert failed.param is None


# -- what an adapter is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_the_facts_of_an_adapter_are_whole(slug):
    facts = load(slug).facts
    assert facts.slug == slug
    assert facts.base_url is None or facts.base_url.startswith("https://")
    assert facts.of_model("a-model-that-nobody-knows").max_n >= 1
    for name, abilities in facts.abilities.items():
        takes_sizes = abilities.fields is None or "size" in abilities.fields
        assert abilities.sizes is None or not takes_sizes or abilities.sizes.fits("auto"), name
        assert abilities.fields is None or {"prompt", "n"} <= abilities.fields, name


@pytest.mark.parametrize("slug", SLUGS)
def test_a_job_keeps_its_name_however_long_it_is_and_also_when_it_is_a_number(slug):
    """Whoever accepts jobs by `id` must not lose one for its name: it is paid for."""
    accepted = next(one for one in exchanges_of(slug) if one.name == "accepted")
    if not isinstance(accepted.play()[0], Pending) or "id" not in accepted.answer.data:
        return
    for name in (2**48, "x" * 150):
        body = {**accepted.answer.data, "id": name}
        body = {**body, "task_id": name} if "task_id" in body else body
        pending = drive(load(slug).submit(accepted.job, Script(replace(accepted.answer, data=body))))
        assert pending.handle.remote_id == str(name)


@pytest.mark.parametrize("slug", SLUGS)
def test_every_empty_column_of_the_matrix_has_a_reason(slug):
    for column in (*matrix.COLUMNS, matrix.SDK):
        assert column in matrix.cells()[slug] or matrix.reason(slug, column)


@pytest.mark.parametrize("slug", SLUGS)
def test_an_adapter_holds_nothing(slug):
    assert vars(load(slug)) == {}


@pytest.mark.parametrize("slug", SLUGS)
def test_an_upstream_without_cancel_is_not_called(slug):
    adapter = load(slug)
    if adapter.facts.cancels:
        assert any(one.spec.get("verb") == "cancel" for one in exchanges_of(slug)), "the transcript shows its cancel"
    else:
        assert drive(adapter.cancel(Handle("job_1"), job_of(slug), Script(None))) is None


@pytest.mark.parametrize("slug", SLUGS)
def test_a_verb_that_the_facts_promise_is_there_and_shown_and_no_other(slug):
    adapter, verbs = load(slug), {one.spec.get("verb") for one in exchanges_of(slug)}
    assert hasattr(adapter, "stream") == bool(adapter.facts.streams) == ("stream" in verbs)
    assert hasattr(adapter, "probe") == adapter.facts.probes == ("probe" in verbs)
    assert hasattr(adapter, "verify") == adapter.facts.webhooks
    assert adapter.facts.webhooks or adapter.facts.webhook_keys_url is None


@pytest.mark.parametrize("slug", SLUGS)
def test_an_answer_may_be_as_large_as_its_pictures(slug):
    """What brings pictures in base64 may be large; where none does, an answer is small."""
    script = Script(Reply(500, {}, None, is_json=False))
    drive(load(slug).submit(job_of(slug), script))
    [request] = script.sent
    inline = [one for one in exchanges_of(slug) if isinstance(one.play()[0], Done) and one.play()[0].media[0].b64]
    for one in inline:
        assert one.play()[1][-1].max_reply_bytes >= (32 << 20) * (one.job.n + 1), one.name
    small, large = 1 << 20, 64 << 20
    if any(one.handle is None for one in inline):
        assert request.max_reply_bytes == large
    else:  # a submit that waits for its job may be answered like a poll
        assert request.max_reply_bytes in ({small, large} if inline else {small})
