"""Secrets of a routing file: where references lead, what counts as unset, and that none is ever shown."""

import pytest

from router.policy.rules import Credential
from tests.policy.routing_files import ENVIRON, SMALL, problems_of, read, rules_of, warnings_of

CANARY = "sk-Canary-7f3a9"


def with_secret(written, *, more=""):
    """SMALL with another api_key of openai; it stands in line 3."""
    return SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"api_key: {written}{more}")


def credentials(text, **given):
    return rules_of(text, **given).providers["openai"].credentials


def test_a_variable_gives_the_secret_and_its_name_is_the_label():
    assert credentials(SMALL) == (Credential("OPENAI_API_KEY", "sk-openai"),)


def test_a_file_gives_the_secret_without_the_line_end():
    text = with_secret("file:/run/secrets/openai")

    assert credentials(text, files={"/run/secrets/openai": "sk-from-file\n"}) == (Credential("#1", "sk-from-file"),)


def test_each_of_several_keys_has_a_label_of_its_own():
    text = SMALL.replace(
        'api_key: "${OPENAI_API_KEY}"', 'api_keys: ["${OPENAI_API_KEY}", file:a, "${lower}", "${BFL_API_KEY}"]'
    )
    found = credentials(text, files={"a": "sk-a"}, environ={**ENVIRON, "lower": "sk-l"})

    assert [(one.label, one.secret) for one in found] == [
        ("OPENAI_API_KEY", "sk-openai"),
        ("#2", "sk-a"),
        ("#3", "sk-l"),
        ("BFL_API_KEY", "bfl-key"),
    ]


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_a_secret_that_is_unset_or_empty_is_a_warning_and_no_credential(value):
    environ = {"BFL_API_KEY": "k"} | ({} if value is None else {"OPENAI_API_KEY": value})
    what = "not set" if value is None else "empty"

    loaded = read(SMALL, environ=environ)

    assert loaded.problems == ()
    assert loaded.ruleset.providers["openai"].credentials == ()
    assert str(loaded.warnings[0]) == (
        f"routing.yaml:3:providers.openai.api_key: the variable OPENAI_API_KEY is {what}: its targets are left out"
    )


def test_a_provider_without_any_key_is_a_warning_and_no_credential():
    text = SMALL.replace(', api_key: "${OPENAI_API_KEY}"', "")

    assert credentials(text) == ()
    assert "routing.yaml:3:providers.openai: has no api_key: its targets are left out" in warnings_of(text)


def test_of_several_keys_those_that_are_set_are_used():
    text = SMALL.replace('api_key: "${OPENAI_API_KEY}"', 'api_keys: ["${A}", "${B}"]')
    environ = {"B": "sk-b", "BFL_API_KEY": "k"}

    assert credentials(text, environ=environ) == (Credential("B", "sk-b"),)
    assert warnings_of(text, environ=environ) == [
        "routing.yaml:3:providers.openai.api_keys[0]: the variable A is not set: this key is not used"
    ]


def test_a_file_that_does_not_exist_is_like_a_variable_that_is_not_set():
    text = with_secret("file:/nowhere")

    assert credentials(text) == ()
    assert warnings_of(text)[0] == (
        "routing.yaml:3:providers.openai.api_key: the file that it refers to does not exist: its targets are left out"
    )


class Locked(dict):
    """Files that may not be read."""

    def __getitem__(self, path):
        raise PermissionError(path)


def test_a_file_that_cannot_be_read_is_a_problem():
    assert problems_of(with_secret("file:/root-only"), files=Locked({"/root-only": CANARY})) == [
        "routing.yaml:3:providers.openai.api_key: the file that it refers to cannot be read"
    ]


@pytest.mark.parametrize("value", [f"{CANARY} {CANARY}", f"{CANARY}\r\nX-Evil: 1", f"{CANARY}\u20ac", f"a\x00{CANARY}"])
def test_a_secret_that_no_header_can_carry_is_a_problem(value):
    expected = "holds blanks or characters that no key has"

    assert problems_of(SMALL, environ={**ENVIRON, "OPENAI_API_KEY": value}) == [
        f"routing.yaml:3:providers.openai.api_key: the variable OPENAI_API_KEY {expected}"
    ]
    assert problems_of(with_secret("file:a"), files={"a": value}) == [
        f"routing.yaml:3:providers.openai.api_key: the file that it refers to {expected}"
    ]


def test_a_key_in_the_file_itself_works_and_is_warned_of_unless_it_is_for_this_machine():
    assert credentials(with_secret(CANARY)) == (Credential("#1", CANARY),)
    assert warnings_of(with_secret(CANARY)) == [
        "routing.yaml:3:providers.openai.api_key: the key itself stands in the file: write ${NAME} or file:PATH"
    ]
    assert warnings_of(with_secret(CANARY, more=", base_url: http://127.0.0.1:8081/v1")) == []
    assert warnings_of(with_secret(CANARY, more=", base_url: 'http://[::1]:8081'")) == []


def test_a_key_that_looks_like_a_number_is_the_text_that_was_written():
    assert credentials(with_secret("0012345678901234567890")) == (Credential("#1", "0012345678901234567890"),)


def test_a_key_over_plain_http_to_another_machine_is_warned_of():
    text = SMALL.replace("adapter: openai,", "adapter: openai, base_url: http://images.example.com,")

    assert warnings_of(text) == [
        "routing.yaml:3:providers.openai.base_url: without https everybody on the way can read the key"
    ]


# A secret in every place where somebody may put one by mistake.
MISPLACED = {
    "a key with a blank": with_secret(f'"{CANARY} x"'),
    "a key as a list": with_secret(f"[{CANARY}]"),
    "a key as a mapping": with_secret(f"{{{CANARY}: }}"),
    "a reference to the key": with_secret(f'"${{{CANARY}}}"'),
    "a variable that is the key": with_secret('"${' + CANARY.replace("-", "_") + '}"'),
    "keys as one text": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"api_keys: {CANARY}"),
    "keys as a mapping": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"api_keys: {{{CANARY}: {CANARY}}}"),
    "no blank after the colon": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"api_key:{CANARY}"),
    "a misspelt key": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"apikey: {CANARY}"),
    "the key alone": SMALL.replace('api_key: "${OPENAI_API_KEY}"', CANARY),
    "the key twice": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"{CANARY}, {CANARY}"),
    "a tag below the key": SMALL.replace('api_key: "${OPENAI_API_KEY}"', f"{CANARY}: {{a: !b c}}"),
    "the password of an address": with_secret("a", more=f', base_url: "https://user:{CANARY}@example.com"'),
    "the query of an address": with_secret("a", more=f', base_url: "https://example.com/?key={CANARY}"'),
    "the address": with_secret("a", more=f", base_url: {CANARY}"),
    "the port": with_secret("a", more=f", base_url: 'https://example.com:{CANARY}'"),
    "the adapter": SMALL.replace("adapter: openai", f"adapter: {CANARY}"),
    "a number": SMALL.replace("adapter: openai,", f"adapter: openai, max_concurrency: {CANARY},"),
    "a rate": SMALL.replace("adapter: openai,", f"adapter: openai, rate_limit: {CANARY},"),
    "the breaker": SMALL.replace("adapter: openai,", f"adapter: openai, breaker: {CANARY},"),
    "the provider itself": SMALL.replace('{adapter: openai, api_key: "${OPENAI_API_KEY}"}', CANARY),
    "all providers": f"version: 1\nproviders: {CANARY}\nmodels: {{}}\n",
    "a section": f"{SMALL}{CANARY}: {CANARY}\n",
    "the version": SMALL.replace("version: 1", f"version: {CANARY}"),
    "a target's provider": SMALL.replace("provider: flux", f"provider: {CANARY}"),
    "a price": SMALL.replace("0.05", CANARY),
    "a strategy": f"{SMALL}    strategy: {CANARY}\n",
    "a rule's target": f"{SMALL}    rules: [{{when: {{tenant: a}}, targets: [{CANARY}]}}]\n",
    "a condition": f"{SMALL}    rules: [{{when: {{{CANARY}: x}}}}]\n",
    "hours": f"{SMALL}    rules: [{{when: {{hours: {CANARY}}}}}]\n",
    "a budget": f"{SMALL}budgets: [{{scope: {CANARY}, match: {CANARY}, window: {CANARY}, limit: {CANARY}}}]\n",
    "a webhook secret": f"{SMALL}tenants: {{a: {{webhook_secrets: [{CANARY}]}}}}\n",
    "a quote that nobody closes": with_secret(f'"{CANARY}').replace("\n", " ", 1),
    "an alias": with_secret(f"*{CANARY}"),
    "a tag": with_secret(f"!{CANARY} x"),
    "a broken line": SMALL.replace("version: 1", f"version: 1: {CANARY}"),
    "a percent sign": SMALL.replace("version: 1", f"%{CANARY}"),
}


@pytest.mark.parametrize("text", MISPLACED.values(), ids=MISPLACED)
def test_no_problem_and_no_warning_repeats_what_may_be_a_secret(text):
    loaded = read(text)
    shown = " ".join([*map(str, loaded.problems), *map(str, loaded.warnings), repr(loaded)])

    assert loaded.problems or loaded.warnings
    for piece in (CANARY, CANARY.replace("-", "_"), "Canary", "7f3a9"):
        assert piece not in shown


def test_no_secret_is_in_the_text_of_a_ruleset():
    loaded = read(SMALL, environ={"OPENAI_API_KEY": CANARY, "BFL_API_KEY": CANARY})

    assert loaded.ruleset is not None
    assert CANARY not in repr(loaded)
