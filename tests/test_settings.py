"""What the environment may say, and how it is told when it says something else."""

import os

import pytest

from router.settings import SettingsInvalid, load_settings, make_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch, tmp_path):
    """No variable of ours and no `.env` but the test's."""
    for name in tuple(os.environ):
        if name.startswith("POINTSMAN_") and name != "POINTSMAN_TESTS_MARK":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def problems(**said):
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(**said)
    return refused.value.problems


def test_without_anything_said_the_defaults_hold():
    settings = load_settings()

    assert (settings.host, settings.port, settings.auth, settings.drain_timeout) == ("127.0.0.1", 8080, "required", 660)
    assert str(settings.find_database()) == "data/pointsman.db"
    assert settings.admin_listener is None


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("POINTSMAN_PORT=1\nPOINTSMAN_LOG_LEVEL=error\nPOINTSMAN_HOST=127.0.0.3\nOTHER=x\n")
    monkeypatch.setenv("POINTSMAN_PORT", "2")
    monkeypatch.setenv("POINTSMAN_HOST", "127.0.0.2")

    settings = load_settings(port=3)
    assert (settings.port, settings.host, settings.log_level) == (3, "127.0.0.2", "error")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("AUTH", "off"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("DRAIN_TIMEOUT", "-1"),
        ("TIME_SCALE", "-3.5"),
        ("PUBLIC_URL", "ftp://x"),
        ("ADMIN_KEY", "tooshort"),
        ("SIGNING_SECRET", "tooshort"),
    ],
)
def test_a_bad_value_is_named_by_its_variable_and_not_repeated(monkeypatch, name, value):
    monkeypatch.setenv(f"POINTSMAN_{name}", value)

    [problem] = problems()
    assert problem.startswith(f"POINTSMAN_{name}: ")
    assert f"'{value}'" not in problem
    assert not problem.endswith(value)


def test_every_problem_is_told_at_once(monkeypatch):
    monkeypatch.setenv("POINTSMAN_PORT", "x")
    monkeypatch.setenv("POINTSMAN_LOG_LEVEL", "x")

    assert len(problems()) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - they are refused
def test_without_keys_only_loopback_is_served(host):
    assert "POINTSMAN_AUTH=disabled" in problems(auth="disabled", host=host)[0]
    assert "POINTSMAN_AUTH=disabled" in problems(auth="disabled", admin_host=host, admin_port=1)[0]


def test_an_address_for_operators_without_a_port_is_refused_rather_than_ignored():
    assert problems(admin_host="127.0.0.1") == ("POINTSMAN_ADMIN_HOST needs POINTSMAN_ADMIN_PORT",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_without_keys_loopback_is_served(host):
    assert load_settings(auth="disabled", host=host).auth == "disabled"


def test_a_secret_may_stand_in_a_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("a-key-of-some-length\n")
    monkeypatch.setenv("POINTSMAN_ADMIN_KEY_FILE", str(tmp_path / "key"))

    settings = load_settings()
    assert settings.admin_key.get_secret_value() == "a-key-of-some-length"
    assert "a-key-of-some-length" not in repr(settings)


def test_a_secret_said_twice_or_in_a_missing_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("POINTSMAN_SIGNING_SECRET_FILE", str(tmp_path / "missing"))
    assert problems() == ("POINTSMAN_SIGNING_SECRET_FILE: cannot be read (No such file or directory)",)

    monkeypatch.setenv("POINTSMAN_SIGNING_SECRET", "a-secret-of-some-length")
    assert problems() == ("POINTSMAN_SIGNING_SECRET and POINTSMAN_SIGNING_SECRET_FILE are both set",)


@pytest.mark.parametrize("url", ["postgresql://u:secretword@h/db", "postgres://h/db"])
def test_the_address_of_a_database_is_passed_on_and_never_shown(url):
    settings = make_settings(database_url=url)

    assert settings.find_database() == url
    assert "secretword" not in repr(settings)


@pytest.mark.parametrize("url", ["mysql://h/db", "sqlite://", "sqlite:///", "x.db"])
def test_an_unusable_database_address_is_refused(url):
    with pytest.raises(SettingsInvalid, match="POINTSMAN_DATABASE_URL: must be sqlite:///PATH"):
        make_settings(database_url=url).find_database()


def test_a_database_path_is_absolute_with_three_slashes_or_four():
    for url in ("sqlite:///srv/a%20b.db", "sqlite:////srv/a%20b.db"):
        assert str(make_settings(database_url=url).find_database()) == "/srv/a b.db"


def test_an_object_store_arrives_later():
    with pytest.raises(SettingsInvalid, match="STORAGE_URL: s3:// arrives in a later version"):
        make_settings(storage_url="s3://bucket/x").find_storage()


def test_settings_made_for_a_purpose_ignore_the_environment(monkeypatch):
    monkeypatch.setenv("POINTSMAN_PORT", "1")
    monkeypatch.setenv("POINTSMAN_DATABASE_URL", "postgresql://h/db")

    settings = make_settings(port=2)
    assert (settings.port, settings.database_url) == (2, None)
