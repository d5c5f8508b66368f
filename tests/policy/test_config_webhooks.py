"""Webhooks of providers in a routing file: what verifies them, and that none is believed unsigned."""

from dataclasses import replace

import pytest

from router.config import load
from router.policy.rules import Webhook
from tests.policy.routing_files import ADAPTERS, ENVIRON, SMALL, absent

KEYS = "https://rest.signed.example/jwks.json"
SIGNED = {
    **ADAPTERS,
    "keyed": replace(ADAPTERS["openai"], slug="keyed", webhooks=True, webhook_keys_url=KEYS),
    "shared": replace(ADAPTERS["openai"], slug="shared", webhooks=True),
}


def read(keys, environ=ENVIRON):
    text = SMALL.replace("models:", f'  other: {{api_key: "${{OPENAI_API_KEY}}", {keys}}}\nmodels:', 1)
    return load(
        text, source="routing.yaml", environ=environ, read_secret=absent, adapter=SIGNED.get, catalogue=""
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "webhook"),
    [
        ("adapter: keyed", None),
        ("adapter: keyed, webhooks: false", None),
        ("adapter: keyed, webhooks: true", Webhook(keys_url=KEYS)),
        ("adapter: keyed, webhooks: true, webhook_keys_url: 'http://127.0.0.1:9/k'", Webhook(keys_url="http://127.0.0.1:9/k")),
        ("adapter: shared, webhook_secret: '${BFL_API_KEY}'", None),
        ("adapter: shared, webhooks: true, webhook_secret: '${BFL_API_KEY}'", Webhook("bfl-key")),
    ],
)  # fmt: skip
def test_webhooks_are_asked_for_where_the_file_says_so_and_something_verifies_them(keys, webhook):
    loaded = read(keys)

    assert loaded.problems == ()
    assert loaded.ruleset.providers["other"].webhook == webhook


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("adapter: openai, webhooks: true", "providers.other.webhooks: the adapter openai cannot verify any"),
        ("adapter: shared, webhooks: true", "providers.other.webhooks: needs webhook_secret"),
        ("adapter: shared, webhooks: true, webhook_secret: 'a b'", "providers.other.webhook_secret: "),
        (
            "adapter: keyed, webhooks: true, webhook_keys_url: 'ftp://x'",
            "providers.other.webhook_keys_url: must be http",
        ),
    ],
)
def test_what_would_leave_a_webhook_unverified_is_a_problem_at_its_key(keys, problem):
    [found] = read(keys).problems

    assert problem in str(found)


@pytest.mark.parametrize("environ", [ENVIRON, {**ENVIRON, "HOOK": ""}])
def test_an_unset_or_empty_secret_is_a_warning_and_no_webhook_is_asked_for(environ):
    loaded = read("adapter: shared, webhooks: true, webhook_secret: '${HOOK}'", environ)

    assert loaded.ruleset.providers["other"].webhook is None
    assert any("webhooks are not asked for" in str(one) for one in loaded.warnings)


# -- webhooks that we send --------------------------------------------------------------------------------------------

OLD = "whsec_" + "b2xk" * 8
NEW = "whsec_" + "bmV3" * 8


def read_tenants(tenants, environ):
    text, environ = f"{SMALL}tenants: {{{tenants}}}\n", {**ENVIRON, **environ}
    return load(
        text, source="routing.yaml", environ=environ, read_secret=absent, adapter=SIGNED.get, catalogue=""
    )  # fmt: skip


def test_a_tenant_has_two_secrets_while_one_replaces_the_other():
    loaded = read_tenants('a: {webhook_secrets: ["${OLD}", "${NEW}"]}, b: {}', {"OLD": OLD, "NEW": NEW})

    assert loaded.problems == ()
    assert loaded.ruleset.tenants["a"].webhook_secrets == (OLD, NEW)
    assert loaded.ruleset.tenants["b"].webhook_secrets == ()
    assert "b2xk" not in repr(loaded)


def test_a_secret_that_is_not_set_is_not_signed_with_and_warned_of():
    loaded = read_tenants('a: {webhook_secrets: ["${OLD}", "${NEW}"]}', {"NEW": NEW})

    assert loaded.problems == ()
    assert loaded.ruleset.tenants["a"].webhook_secrets == (NEW,)
    [warning] = [str(one) for one in loaded.warnings if "webhook" in str(one)]
    assert "tenants.a.webhook_secrets[0]: the variable OLD is not set" in warning


def test_a_secret_in_the_file_itself_is_warned_of_without_repeating_it():
    loaded = read_tenants(f"a: {{webhook_secrets: [{NEW}]}}", {})

    [warning] = [str(one) for one in loaded.warnings if "webhook" in str(one)]
    assert "stands in the file" in warning
    assert NEW not in warning
