"""The requests kept in tests/providers/recorded/ark.yaml are those that the SDK of this environment sends."""

import importlib.metadata
import json
import os
import subprocess

import pytest

from tests.sdk.ark.recorded import CALLS, record
from tests.sdk.conftest import ROOT

KEPT = ROOT / "tests" / "providers" / "recorded" / "ark.yaml"
# This environment has no YAML; Pointsman's own has.
READ = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"


@pytest.fixture(scope="module")
def kept():
    command = [os.environ["POINTSMAN_PYTHON"], "-c", READ, str(KEPT)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def sent():
    return record()


def test_the_recording_names_the_sdk_of_this_environment(kept):
    name, version = kept["sdk"].split()
    assert importlib.metadata.version(name) == version


@pytest.mark.parametrize("call", CALLS)
def test_a_call_sends_what_was_recorded(kept, sent, call):
    assert sent[call] == kept["requests"][call]


def test_nothing_is_kept_that_no_call_sends(kept):
    assert list(kept["requests"]) == list(CALLS)
