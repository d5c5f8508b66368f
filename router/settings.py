"""The environment of the process (contract section 4): read once at the start, checked whole, never changed.

Owns names, defaults and ranges; knows no part of the daemon. Values come from the environment, then from `.env` in the
working directory. A secret may stand in a file that `..._FILE` names. What is wrong is said with the variable's name
and never with its value. Floor 4.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)

SECRETS = ("database_url", "admin_key", "signing_secret")
ADMIN_KEY_MIN_CHARS = 16
DATABASE_NAME = "pointsman.db"
ADMIN_KEY_NAME = "admin-key"


class SettingsInvalid(Exception):  # noqa: N818 - it says what is wrong, and whoever reads it sees no traceback
    """The environment cannot be used; `problems` are lines such as `POINTSMAN_PORT: must be ...`, without values."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Everything static. Durations in seconds; unset texts are None. `load_settings` makes it."""

    model_config = SettingsConfigDict(
        env_prefix="POINTSMAN_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    config: Path = Path("config/routing.yaml")
    data_dir: Path = Path("data")
    database_url: SecretStr | None = None
    storage_url: str | None = None
    public_url: str | None = None
    admin_key: SecretStr | None = None
    admin_host: str | None = None
    admin_port: int | None = Field(None, ge=0, le=65535)
    signing_secret: SecretStr | None = None
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_timeout: float = Field(660.0, ge=0, le=86_400)
    replica_id: str = Field(default_factory=socket.gethostname, min_length=1, max_length=200)
    auth: Literal["required", "disabled"] = "required"
    fetch_allow: str = ""
    time_scale: float = Field(1.0, gt=0, le=1)
    otel_exporter_otlp_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    database_url_file: Path | None = None
    admin_key_file: Path | None = None
    signing_secret_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        """Put the content of each `..._FILE` where the secret itself would stand."""
        if not isinstance(values, dict):
            return values
        read = dict(values)
        for name in SECRETS:
            path = read.get(f"{name}_file")
            if path is None:
                continue
            if read.get(name) is not None:
                raise ValueError(f"POINTSMAN_{name.upper()} and POINTSMAN_{name.upper()}_FILE are both set")
            try:
                read[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as broken:
                reason = broken.strerror if isinstance(broken, OSError) else "not a text"
                raise ValueError(f"POINTSMAN_{name.upper()}_FILE: cannot be read ({reason})") from None
        return read

    @field_validator("log_format", "log_level", "auth", mode="before")
    @classmethod
    def _ignore_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("admin_key", "signing_secret")
    @classmethod
    def _demand_length(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < ADMIN_KEY_MIN_CHARS:
            raise ValueError(f"must have at least {ADMIN_KEY_MIN_CHARS} characters")
        return secret

    @field_validator("public_url")
    @classmethod
    def _demand_address(cls, url: str | None) -> str | None:
        return _read_address(url)

    @model_validator(mode="after")
    def _keep_open_doors_local(self) -> Self:
        """Without keys nothing but this machine may reach the daemon (contract section 4, AUTH)."""
        hosts = (self.host, self.admin_host) if self.admin_host is not None else (self.host,)
        if self.auth == "disabled" and not all(is_loopback(host) for host in hosts):
            raise ValueError("POINTSMAN_AUTH=disabled needs a loopback POINTSMAN_HOST, such as 127.0.0.1")
        return self

    @model_validator(mode="after")
    def _demand_admin_port(self) -> Self:
        """An address alone would be ignored, and the operators' routes would stay where everybody is."""
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("POINTSMAN_ADMIN_HOST needs POINTSMAN_ADMIN_PORT")
        return self

    @property
    def admin_listener(self) -> tuple[str, int] | None:
        """Host and port of the listener for admin and metrics, None when everything is on the one port."""
        return None if self.admin_port is None else (self.admin_host or self.host, self.admin_port)

    @property
    def admin_key_path(self) -> Path:
        """Where the first start leaves the key that it made."""
        return self.data_dir / ADMIN_KEY_NAME

    def read_admin_key(self) -> str | None:
        """The admin key that a first start has left here, None when there is no such file or it is not ours to read."""
        try:
            return self.admin_key_path.read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def find_database(self) -> Path | str:
        """The SQLite file, or the address of a PostgreSQL database; `SettingsInvalid` for anything else."""
        if self.database_url is None:
            return self.data_dir / DATABASE_NAME
        url = self.database_url.get_secret_value()
        if url.partition(":")[0] in {"postgres", "postgresql"}:
            return url
        return _path_of(
            "POINTSMAN_DATABASE_URL", url, "sqlite", "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
        )

    def find_storage(self) -> Path:
        """The directory of result files; `SettingsInvalid` for an object store, which arrives in a later version."""
        if self.storage_url is None:
            return self.data_dir
        scheme = self.storage_url.partition(":")[0]
        if scheme in {"s3", "gs", "az"}:
            raise SettingsInvalid((f"POINTSMAN_STORAGE_URL: {scheme}:// arrives in a later version; use file:///PATH",))
        return _path_of("POINTSMAN_STORAGE_URL", self.storage_url, "file")


class ClientSettings(BaseSettings):
    """What commands that are clients are told: where the daemon is and the key to use there. None: not said."""

    model_config = SettingsConfigDict(
        env_prefix="POINTSMAN_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    url: str | None = None
    api_key: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _demand_address(cls, url: str | None) -> str | None:
        return _read_address(url)

    @field_validator("api_key")
    @classmethod
    def _demand_characters(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            raise ValueError("must be printable ASCII")
        return key


def load_client_settings() -> ClientSettings:
    """Read what the environment says about the daemon to talk to. `SettingsInvalid` names every problem."""
    return _load(ClientSettings, {})


def load_settings(**said: Any) -> Settings:
    """Read the environment; what a command line says (not None) wins. `SettingsInvalid` names every problem."""
    return _load(Settings, {name: value for name, value in said.items() if value is not None})


def _load(settings: type[S], said: Mapping[str, Any]) -> S:
    try:
        return settings(**said)
    except ValidationError as invalid:
        raise SettingsInvalid(tuple(_problem_of(error) for error in invalid.errors(include_input=False))) from None
    except (OSError, UnicodeDecodeError):
        raise SettingsInvalid((".env: cannot be read",)) from None


def _read_address(url: str | None) -> str | None:
    """Check the base of addresses; no slash at its end."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        fit = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fit = False
    if not fit or parts.query or parts.fragment:
        raise ValueError("must be http(s)://host[:port][/path]")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _problem_of(error: Any) -> str:
    """One line of one problem: pydantic's own text says what is expected, never what was given (input is left out)."""
    text = str(error["msg"]).removeprefix("Value error, ")
    where = "".join(str(part) for part in error["loc"][:1])
    if not where:
        return text
    name = where.upper() if where.isupper() else f"POINTSMAN_{where.upper()}"
    return f"{name}: {text[0].lower()}{text[1:]}"


def _path_of(variable: str, url: str, scheme: str, expected: str | None = None) -> Path:
    """Read `scheme:///PATH`: the path is absolute, with three slashes or with four. `expected`: what to say if not."""
    prefix = f"{scheme}:///"
    path = unquote(url.removeprefix(prefix))
    if not url.startswith(prefix) or not path or "\0" in path:
        raise SettingsInvalid((f"{variable}: must be {expected or f'{scheme}:///PATH'}",))
    return Path("/" + path.lstrip("/"))


class _Isolated(Settings):
    """Settings that only their maker decides: neither the environment nor `.env` is read."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library asks in this form
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library asks in this form
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library asks in this form
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library asks in this form
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is said in so many words."""
        return (init_settings,)


def make_settings(**said: Any) -> Settings:
    """Make settings that no environment changes: for the demo and for tests. Raises as `load_settings` does."""
    try:
        return _Isolated(**said)
    except ValidationError as invalid:
        raise SettingsInvalid(tuple(_problem_of(error) for error in invalid.errors(include_input=False))) from None
