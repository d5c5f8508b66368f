"""What is installed is what was locked: the three requirement files, the project's own metadata, and the command."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import router

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ["requirements.lock", "requirements-demo.lock", "requirements-dev.lock"]
SDK_LOCKS = [f"tests/sdk/{name}.lock" for name in ("openai-1", "openai-2", "current", "google-2", "ark")]
APART = [*SDK_LOCKS, "tests/fuzz/fuzz.lock"]
PIN = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; [^\\]+?)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})*)$"
)


def read_pins(lock):
    """Return the lines of a lock with continuations joined, comments and blank lines left out."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_versions(lock):
    """Return name -> version of a lock."""
    return {match["name"]: match["version"] for line in read_pins(lock) if (match := PIN.match(line))}


def normalise(requirement):
    """Return the name of a requirement as a lock writes it: `PyYAML>=6` -> `pyyaml`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9_.-]+", requirement)[0]).lower()


@pytest.mark.parametrize("lock", [*LOCKS, *APART])
def test_a_lock_names_no_address_and_no_option(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")

    assert "://" not in text
    assert not re.findall(r"^\s*-(?!-hash=).*", text, re.MULTILINE), "only packages and hashes belong in a lock"


@pytest.mark.parametrize("lock", [*LOCKS, *APART])
def test_every_requirement_of_a_lock_is_one_version_with_hashes(lock):
    pins = read_pins(lock)

    assert pins
    assert [line for line in pins if not (match := PIN.match(line)) or not match["hashes"]] == []


def test_every_direct_dependency_is_in_the_running_lock_and_the_tools_of_the_install_too():
    groups = PROJECT["dependency-groups"]
    wanted = {normalise(entry) for entry in [*PROJECT["project"]["dependencies"], *groups["build"]]}

    assert wanted - set(read_versions("requirements.lock")) == set()


def test_the_larger_locks_hold_the_smaller_ones_at_the_same_versions():
    runs, demo, dev = (read_versions(lock) for lock in LOCKS)
    extras = PROJECT["project"]["optional-dependencies"]
    drawing = {normalise(entry) for entry in [*extras["simulators"], *extras["video"]]}
    tools = {normalise(entry) for entry in PROJECT["dependency-groups"]["dev"]}

    assert runs.items() <= demo.items() <= dev.items()
    assert drawing == set(demo) - set(runs)
    assert tools <= set(dev)


@pytest.mark.parametrize("lock", APART)
def test_a_lock_apart_holds_what_its_list_asks_for(lock):
    asked = (ROOT / lock).with_suffix(".in").read_text(encoding="utf-8").splitlines()

    assert {normalise(line) for line in asked if not line.startswith("#")} - set(read_versions(lock)) == set()


def test_the_sdk_of_openai_is_tried_in_each_of_its_major_versions():
    majors = [read_versions(lock)["openai"].split(".")[0] for lock in SDK_LOCKS[:3]]

    assert majors == ["1", "2", "3"]


def test_the_sdk_of_google_is_tried_in_the_last_major_version_that_orders_films_and_in_the_newest():
    versions = [read_versions(f"tests/sdk/{name}.lock")["google-genai"] for name in ("google-2", "current")]

    assert [version.split(".")[0] for version in versions] == ["2", "3"]


def test_the_version_is_the_same_in_the_package_and_in_the_project():
    assert PROJECT["project"]["version"] == router.__version__


@pytest.mark.parametrize("command", [["-m", "router"], [str(Path(sys.executable).parent / "pointsman")]])
def test_the_command_tells_its_version(command):
    line = [sys.executable, *command] if command[0] == "-m" else command
    ended = subprocess.run([*line, "--version"], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"pointsman {router.__version__}\n", "")


def test_the_wheel_holds_both_packages_and_configuration_and_dashboards_as_data(tmp_path):
    project = tmp_path / "project"
    for name in ("router", "providers"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "grafana", project / "grafana")
    for name in ("config", "tests"):
        (project / name).mkdir()
        (project / name / "routing.yaml").write_text("version: 1\n", encoding="utf-8")

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())

    assert {"router/__init__.py", "providers/__init__.py", "router/_data/config/routing.yaml"} <= names
    assert {f"router/api/openapi/{path.name}" for path in (ROOT / "router/api/openapi").iterdir()} <= names
    dashboards = {path.relative_to(ROOT).as_posix() for path in (ROOT / "grafana").rglob("*") if path.is_file()}
    assert {f"router/_data/{name}" for name in dashboards} <= names
    assert {name.split("/")[0] for name in names} == {
        "router",
        "providers",
        f"pointsman-{router.__version__}.dist-info",
    }
