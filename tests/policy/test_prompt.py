"""How long a chat may get, as its request tells."""

import pytest

from router.policy.prompt import PART_CHARS, count_prompt_chars, read_max_tokens


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 0),
        ({"messages": [{"role": "user", "content": "hello"}]}, 9),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}, 13),
        ({"messages": [{"role": "user", "content": "a", "name": None, "n": 3}]}, 5),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": "d" * 10}}]}, 19),
        ({"temperature": "not a part of the prompt"}, 0),
    ],
)
def test_text_counts_by_its_characters(body, count):
    assert count_prompt_chars(body) == count


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_is_no_text_counts_the_same_however_many_bytes_it_has(kind):
    part = {"type": kind, kind: {"url": "data:image/png;base64," + "A" * 100_000}}

    assert count_prompt_chars({"messages": [{"content": [part, part]}]}) == 2 * PART_CHARS


def test_a_deep_prompt_is_counted_without_recursion():
    deep = "x"
    for _ in range(5_000):
        deep = [deep]

    assert count_prompt_chars({"messages": deep}) == 1


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": -1}, None),
    ],
)
def test_the_bound_of_an_answer_is_what_the_caller_says(body, most):
    assert read_max_tokens(body) == most
