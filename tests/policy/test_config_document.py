"""The syntax of configurations: lines, what YAML 1.1 would have made of plain words, and what is refused unread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.document import NODES_MAX, TEXT_MAX_BYTES, Items, Keys, Plain, Scalar, compose
from tests.policy.routing_files import SMALL, problems_of, read, with_key, with_rule

LAUGHS = "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9) if n else 'x, ' * 9}]\n" for n in range(8))

REFUSED = {
    "an empty file": ("", "routing.yaml:1: the file is empty"),
    "comments only": ("# nothing\n\n", "routing.yaml:1: the file is empty"),
    "no mapping": ("- a\n- b\n", "routing.yaml:1: must be a mapping of keys, such as `version: 1`"),
    "a lone text": ("hello", "routing.yaml:1: must be a mapping of keys, such as `version: 1`"),
    "a tag": (
        "version: 1\nmodels: !!python/object:os.system x\n",
        "routing.yaml:2:models: tags are not read; a value that begins with ! needs quotes",
    ),
    "a tag on a mapping": (
        "version: 1\nmodels: !x\n  a: 1\n",
        "routing.yaml:2:models: tags are not read; a value that begins with ! needs quotes",
    ),
    "a second document": (
        "version: 1\n---\nversion: 1\n",
        "routing.yaml:2: a second document begins here; a configuration is one",
    ),
    "a thousand million laughs": (LAUGHS, f"routing.yaml:6:k5: unfolds to more than {NODES_MAX} values"),
    "an alias inside its anchor": (
        "version: 1\nmodels: &m\n  a: *m\n",
        "routing.yaml:3:models.a: this alias stands inside its own anchor",
    ),
    "an unknown anchor": (
        "version: 1\nbudgets:\n  - {scope: tenant, match: *all}\n",
        "routing.yaml:3:budgets[0].match: no anchor of that name stands above; a text that begins with * needs quotes",
    ),
    "deep nesting": (
        "version: 1\n" + "models: " + "[" * 40 + "]" * 40,
        "routing.yaml:2:models" + "[0]" * 31 + ": nested deeper than 32 levels",
    ),
    "a key that is a mapping": (
        "version: 1\n{a: b}: c\n",
        "routing.yaml:2: a key must be a text; a value that begins with { or [ needs quotes",
    ),
    "a control character": (
        "version: 1\ntimezone: U\x07TC\n",
        "routing.yaml:2: a control character, or another that no YAML file may hold",
    ),
    "half a character": (
        "version: 1\n\n# \ud800\n",
        "routing.yaml:3: a control character, or another that no YAML file may hold",
    ),
    "a large file": (
        "# 123456\n" * 200_000,
        f"routing.yaml:{TEXT_MAX_BYTES // 9 + 1}: the file is larger than 1 MiB",
    ),
    "large by its bytes": ("# \u20ac\n" * 210_000, "routing.yaml:210001: the file is larger than 1 MiB"),
    "a tab": (
        "version: 1\n\tmodels: 1\n",
        (
            "routing.yaml:2: while scanning a plain scalar, found a tab character that violates indentation "
            "(indent with blanks, not with tabs)"
        ),
    ),
    "a quote that nobody closes": (
        'version: 1\ntimezone: "UTC\nmodels: {}\n',
        "routing.yaml:2: while scanning a quoted scalar, found unexpected end of stream",
    ),
    "a reference without quotes": (
        "version: 1\nproviders:\n  openai: {adapter: openai, api_key: ${KEY}}\n",
        (
            "routing.yaml:3: while parsing a flow mapping, did not find expected ',' or '}' "
            '(inside { } a reference needs quotes: "${NAME}")'
        ),
    ),
    "a range without quotes": (
        "version: 1\nmodels:\n  n: >=2\n",
        (
            "routing.yaml:3: while scanning a block scalar, did not find expected comment or line break "
            "(a value that begins with > or | needs quotes)"
        ),
    ),
    "a star without quotes": (
        "version: 1\nbudgets:\n  - match: *\n",
        (
            "routing.yaml:3: while scanning an alias, did not find expected alphabetic or numeric character "
            "(a value that begins with * needs quotes)"
        ),
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line_and_nothing_else_is_said(text, expected):
    assert problems_of(text) == [expected]


def test_both_of_two_equal_keys_are_named_and_the_rest_is_checked_all_the_same():
    text = SMALL.replace("kind: image", "kind: image\n    kind: picture\n    timeout: soon")

    assert problems_of(text) == [
        "routing.yaml:8:models.picture.kind: the same key stands in line 7 already",
        (
            "routing.yaml:9:models.picture.timeout: must be a duration from 1s to 24h, with its unit, such as 500ms, "
            "8s, 1m, 24h or 30d"
        ),
    ]


def test_a_merge_key_is_refused_where_it_stands():
    text = SMALL.replace("  flux: {", "  flux: {<<: {adapter: openai}, ")

    assert problems_of(text) == ["routing.yaml:4:providers.flux: merge keys (<<) are not read: write the keys out"]


def test_an_anchor_can_be_used_again_and_counts_where_it_is_used():
    retry = "&often {per_target: 3}"
    text = with_rule("{when: {tenant: a}, retry: *often}").replace("kind: image", f"kind: image\n    retry: {retry}")

    model = read(text).ruleset.models["picture"]

    assert (model.otherwise.retry.per_target, model.rules[0].retry.per_target) == (3, 3)


def test_scalars_stay_the_text_that_was_written():
    written = ["no", "012", "12:30:45", "1_000", "0x1F", "2026-11-20", "yes", "1e3", ".inf", "~", "1.10"]
    node = compose("[" + ", ".join(written) + "]").root

    assert [entry.node for entry in node.entries] == [Scalar(text, plain=True) for text in written]


def test_quotes_are_told_apart_from_plain_words():
    node = compose("[a, 'a', \"a\"]").root

    assert [entry.node.plain for entry in node.entries] == [True, False, False]
    assert [entry.node.is_null for entry in compose("[null, 'null', '']").root.entries] == [True, False, False]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{when: {quality: no}}", ("quality", ("no",))),
        ("{when: {quality: 012}}", ("quality", ("012",))),
        ("{when: {quality: [1.0, on, true]}}", ("quality", ("1.0", "on", "true"))),
        ("{when: {tenant: 12:30:45}}", ("tenant", ("12:30:45",))),
        ("{when: {metadata.flag: yes}}", ("metadata", {"flag": ("yes",)})),
        ("{when: {hours: 22:00-06:00}}", ("hours", ((1320, 360),))),
    ],
)
def test_words_that_yaml_takes_for_numbers_and_truths_stay_the_words_that_were_meant(rule, expected):
    key, value = expected

    assert getattr(read(with_rule(rule)).ruleset.models["picture"].rules[0].when, key) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("defaults: {queue: {max_pending: 012}}", "max_pending: must be a whole number from 1 to 10000000: write it "),
        ("defaults: {queue: {max_pending: 1_000}}", "max_pending: must be a whole number from 1 to 10000000"),
        ("defaults: {queue: {max_pending: 0x10}}", "max_pending: must be a whole number from 1 to 10000000"),
        ("defaults: {queue: {max_pending: 1e3}}", "max_pending: must be a whole number from 1 to 10000000"),
        ("defaults: {queue: {max_pending: yes}}", "max_pending: must be a whole number from 1 to 10000000"),
        (
            "budgets: [{scope: all, window: day, limit: 0100}]",
            "limit: must be an amount in USD such as 0.03, from 0 to",
        ),
        (
            "budgets: [{scope: all, window: day, limit: .nan}]",
            "limit: must be an amount in USD such as 0.03, from 0 to",
        ),
        ("defaults: {row_retention: 23h}", "row_retention: must be a duration from 24h to 36500d"),
        ("defaults: {sync_wait: 12:30}", "sync_wait: must be a duration from 1s to 1h, with its unit"),
    ],
)
def test_where_a_number_is_needed_the_surprises_of_yaml_are_reported(line, expected):
    [problem] = problems_of(with_key(line))

    assert problem.startswith("routing.yaml:11:")
    assert expected in problem


def test_lines_are_those_of_keys_and_of_items():
    document = compose("a:\n  b:\n    - 1\n    -\n      c: d\n")

    assert document.line_of(("a", "b", 1, "c")) == 5
    assert document.line_of(("a", "b", 1)) == 5
    assert document.line_of(("a", "b", 0)) == 3
    assert document.line_of(("a", "b", 7, "x")) == 2
    assert document.line_of(("x",)) == 1


def test_windows_line_ends_and_a_byte_order_mark_change_nothing():
    assert read("\ufeff" + SMALL.replace("\n", "\r\n")).ruleset.models == read(SMALL).ruleset.models


# -- any text ---------------------------------------------------------------------------------------------------------

PIECES = (
    "version providers models 1 null ~ { [ } ] : , - &a *a << !t ${X} file:x openai adapter api_key kind image targets "
    "when price rules retry budgets scope tenant limit 012 1e9999999 -1 ' \" | > # %"
)
WORDS = st.sampled_from(PIECES.split()) | st.sampled_from(["\n", "\n  ", "\n    ", "\t", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=200) | st.lists(WORDS, max_size=60).map(" ".join) | st.lists(WORDS, max_size=60).map("".join))
def test_no_text_makes_loading_raise(text):
    loaded = read(text)

    assert (loaded.ruleset is None) == bool(loaded.problems)
    assert all(problem.line >= 1 and "\n" not in str(problem) for problem in loaded.problems)


@given(data=st.data())
def test_no_value_in_any_place_of_a_sound_file_makes_loading_raise(data):
    lines = SMALL.splitlines()
    line = data.draw(st.integers(0, len(lines) - 1))
    value = data.draw(VALUES)
    broken = lines[line].partition(":")[0] + ": " + repr(value).replace("None", "null")

    loaded = read("\n".join([*lines[:line], broken, *lines[line + 1 :]]))

    assert (loaded.ruleset is None) == bool(loaded.problems)


def test_the_tree_counts_what_aliases_unfold_to():
    node = compose("a: &a [1, 2]\nb: [*a, *a]\n").root

    assert isinstance(node, Keys)
    assert isinstance(node.entries["b"].node, Items)
    assert (node.entries["a"].node.size, node.entries["b"].node.size, node.size) == (3, 7, 11)
    assert isinstance(Plain("x"), str)


def test_a_target_that_no_model_has_is_told_although_another_of_the_model_is_broken():
    text = SMALL + (
        "    rules:\n"
        "      - {when: {n: 1}, targets: [stray]}\n"
        "      - {when: {n: 2}, targets: [nobody]}\n"
        "      - {when: {colour: red, n: 3}}\n"
    )
    problems = problems_of(text.replace("targets:", "targets:\n      - {provider: nobody, model: x}", 1))

    assert [problem.partition(":models.picture.")[2].partition(": ")[0] for problem in problems] == [
        "targets[0].provider",
        "rules[0].targets[0]",
        "rules[2].when.colour",
    ]
    assert problems[2].endswith("hours, metadata.KEY")
