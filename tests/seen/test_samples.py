"""The samples of the aggregators are cut out whole, and their code is not touched."""

import ast
from collections import Counter

import pytest

from tests.seen.samples import FOLDER, lay_out, read_samples

SAMPLES = read_samples()


def test_every_document_gives_all_its_programs():
    counts = Counter((sample.document, sample.language) for sample in SAMPLES)

    assert counts == {
        **{("dieyuyun.md", language): count for language, count in (("bash", 3), ("python", 4), ("javascript", 3))},
        **{("pixapi.md", language): 2 for language in ("bash", "python", "javascript", "go", "java", "php")},
        ("worldrouter.md", "bash"): 2,
    }


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_line_of_a_sample_stands_in_its_document_in_that_place(sample):
    printed = (FOLDER / sample.document).read_text(encoding="utf-8").splitlines()[sample.line - 1 :]

    for ours, theirs in zip(sample.text.splitlines(), printed, strict=False):
        assert theirs.strip().startswith(ours.strip())


@pytest.mark.parametrize(
    "sample", [sample for sample in SAMPLES if sample.language == "python"], ids=lambda sample: sample.name
)
def test_the_python_of_a_sample_is_python(sample):
    assert ast.parse(sample.text).body


def test_the_polling_loop_gets_the_layout_that_its_words_tell():
    [loop] = [sample.text for sample in SAMPLES if "while True" in sample.text]
    body = next(node for node in ast.parse(loop).body if isinstance(node, ast.While)).body
    done = body[-2]

    assert isinstance(done, ast.If)
    assert ast.unparse(body[-1]) == "time.sleep(3)"
    assert [type(one) for one in done.body] == [ast.Expr, ast.Break]
    assert [type(one) for one in done.orelse[0].body] == [ast.Expr, ast.If, ast.Break]


def test_python_that_kept_its_indentation_is_left_as_it_is():
    text = "if a:\n  if b:\n    c()\nd()\n"

    assert lay_out(text) == text
