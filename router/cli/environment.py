"""The settings of the process as `pointsman serve --help` and the README list them: name, default, meaning (contract
section 4). It is plain data, because `--help` must not wait for a settings library; a test holds it against
`router.settings` both ways. Floor 4.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "POINTSMAN_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. `name` without the prefix `POINTSMAN_`, unless `prefixed` is False; `default` as text."""

    name: str
    default: str
    meaning: str
    prefixed: bool = True
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return f"{PREFIX}{self.name}" if self.prefixed else self.name


SETTINGS: tuple[Setting, ...] = (
    Setting("HOST", "127.0.0.1", "address to listen on"),
    Setting("PORT", "8080", "port to listen on; 0 takes a free one"),
    Setting("CONFIG", "config/routing.yaml", "the routing file; watched for changes"),
    Setting("DATA_DIR", "data", "directory of the database, the results and the admin key"),
    Setting(
        "DATABASE_URL",
        "",
        "sqlite:///PATH or postgresql://...; pointsman.db in the data directory if unset",
        is_secret=True,
    ),
    Setting("STORAGE_URL", "", "file:///PATH for result files; objects/ in the data directory if unset"),
    Setting("PUBLIC_URL", "", "base of the links in answers; the request's Host if unset"),
    Setting("ADMIN_KEY", "", "the operator's key; made at the first start if unset", is_secret=True),
    Setting("ADMIN_HOST", "", "address of a listener of its own for admin and metrics; HOST if only the port is set"),
    Setting("ADMIN_PORT", "", "port of that listener; without it everything is on the one port"),
    Setting("SIGNING_SECRET", "", "signs links and cursors; made at the first start if unset", is_secret=True),
    Setting("LOG_FORMAT", "json", "json or console"),
    Setting("LOG_LEVEL", "info", "debug, info, warning or error"),
    Setting("DRAIN_TIMEOUT", "660", "seconds that a shutdown waits for synchronous calls that are out"),
    Setting("REPLICA_ID", "", "name of this daemon in the store; the host name if unset"),
    Setting("AUTH", "required", "required or disabled; disabled is for loopback only"),
    Setting("FETCH_ALLOW", "", "CIDRs or host:port that fetches may reach although they are not public"),
    Setting("TIME_SCALE", "1.0", "multiplies the waits between polls; below 1 against simulators only"),
    Setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", "", "traces; not available in this version, nothing is sent", prefixed=False
    ),
)


def describe_settings() -> str:
    """The table below `serve --help`: one setting a line, then how secrets and `.env` are read."""
    width = max(len(setting.variable) for setting in SETTINGS)
    lines = [
        f"  {setting.variable:<{width}}  {setting.meaning}{f' [{setting.default}]' if setting.default else ''}"
        for setting in SETTINGS
    ]
    secrets = ", ".join(f"{setting.variable}_FILE" for setting in SETTINGS if setting.is_secret)
    closing = f"Secrets may stand in files instead: {secrets}.\nA file .env in the working directory is read, too."
    return "\n".join(["Settings (environment):", *lines, "", closing])
