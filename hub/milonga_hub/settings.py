"""What a hub can be told from outside: environment variables MILONGA_* and the flags of `milonga up`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from milonga_hub.logs import LogFormat


class Settings(BaseSettings):
    """Settings of one hub. Every field is also an environment variable, MILONGA_ and the name in capitals."""

    model_config = SettingsConfigDict(env_prefix="MILONGA_", extra="ignore")

    data_dir: Path = Field(default=Path("milonga-data"), description="Database, blobs and job folders.")
    host: str = Field(default="127.0.0.1", description="Address to listen on, for HTTP, gRPC and MQTT.")
    http_port: int = Field(default=8080, ge=0, le=65535, description="Dashboard and REST; 0 takes a free one.")
    https_certificate: Path | None = Field(
        default=None,
        description="Certificate chain (PEM) with which the HTTP port is encrypted; none leaves that to a proxy.",
    )
    https_key: Path | None = Field(
        default=None, description="Key (PEM) of that certificate, where it is not in the same file."
    )
    grpc_port: int = Field(
        default=8443, ge=0, le=65535, description="gRPC, for programs and devices that join; 0 takes a free one."
    )
    device_port: int = Field(
        default=8444, ge=0, le=65535, description="gRPC, for devices with a certificate; 0 takes a free one."
    )
    mqtt_port: int = Field(
        default=8883, ge=0, le=65535, description="The hub's own MQTT broker, for devices; 0 takes a free one."
    )
    broker: str = Field(
        default="auto",
        description="MQTT broker: embedded, mosquitto, a URL (mqtts://broker.example:8883), or auto: mosquitto where it is"
        " installed, else embedded.",
    )
    broker_ca: Path | None = Field(
        default=None, description="Authority (PEM) of a broker by URL, where that is not the hub's own."
    )
    broker_address: str = Field(
        default="", description="HOST:PORT at which devices reach a broker by URL, where that is not the URL's."
    )
    # Short, so that a key that was stolen with an old disk is of no use.
    certificate_days: float = Field(
        default=7.0, gt=0, le=825, description="Lifetime of a device's certificate; renewed by itself after half of it."
    )
    # A season in a drawer.
    absence_days: float = Field(
        default=90.0,
        ge=0,
        description="How long after its certificate a device may come back by itself; then an operator is asked.",
    )
    server_names: list[str] = Field(
        default=[],
        description="Further names of the hub, in its certificate and for a proxy on its machine (a JSON list).",
    )
    database_url: str = Field(default="", description="SQLAlchemy URL; empty means SQLite in the data folder.")
    blobs: str = Field(
        default="",
        description="Where pictures, models and builds are kept: s3://BUCKET/PREFIX, another URL that fsspec knows, or"
        " file:///FOLDER; empty means where this hub has had them, at first the data folder.",
    )
    # The builds of a fleet and the pictures of a training; more is fetched again.
    blob_cache_bytes: int = Field(
        default=20 << 30, ge=0, description="Most that copies of blobs elsewhere take of the disk; the oldest go first."
    )
    # 64 GiB: more pictures than one machine trains on in a day.
    max_upload_bytes: int = Field(default=64 << 30, gt=0, description="Largest archive that an import takes.")
    quotas: Path | None = Field(
        default=None, description="File (YAML) with what each project may take of this hub; none limits nothing."
    )
    max_download_kbps: float = Field(
        default=0.0, ge=0, description="Most that all downloads of devices together take, in kbit/s; 0 for no limit."
    )
    max_device_download_kbps: float = Field(
        default=0.0, ge=0, description="Most that the downloads of each device take, in kbit/s; 0 for no limit."
    )
    # The deltas of a few hundred builds.
    delta_cache_bytes: int = Field(
        default=2 << 30, ge=0, description="Most that deltas between builds take of the disk; the oldest go first."
    )
    heartbeat_seconds: float = Field(default=10.0, gt=0, description="How often agents report.")
    # Five a second, where more than ten of a device are refused.
    telemetry_seconds: float = Field(default=30.0, ge=0.2, description="Length of a telemetry window, at least 0.2.")
    # Small networks are timed in less on a quiet device.
    measuring_seconds: float = Field(
        default=10.0, gt=0, description="Most that a device takes to time one network; one that is busy needs them."
    )
    telemetry_raw_days: float = Field(default=2.0, gt=0, description="How long telemetry stays as it came.")
    telemetry_minute_days: float = Field(default=14.0, gt=0, description="How long one window a minute is kept.")
    telemetry_days: float = Field(
        default=365.0, gt=0, description="How long telemetry is kept at all, from then on one window an hour."
    )
    # 30 s at the default heartbeat: three missed ones, so one lost packet never alarms.
    missed_heartbeats: int = Field(default=3, ge=1, description="Missed heartbeats until a device counts as offline.")

    log_format: LogFormat = Field(
        default=LogFormat.TEXT, description="How the hub writes its log: text, or json, one object a line."
    )
    traces_endpoint: str = Field(
        default="",
        description="Collector for OpenTelemetry traces (OTLP over HTTP): http://collector:4318; empty traces nothing.",
    )
    mlflow: str = Field(
        default="",
        description="URI of an MLflow server that is told of runs and model versions: http://mlflow:5000; empty tells none.",
    )
    ray: str = Field(
        default="",
        description="Ray cluster that jobs run on: ray://head:10001, HOST:6379 of one that this machine is part of, or auto; empty"
        " runs them on this machine.",
    )
    ray_resources: list[str] = Field(
        default=[],
        description="What a job takes of the cluster, as KIND=cpu:8,gpu:1,memory_gib:16, where KIND is train, search, build or"
        " another kind, or all (a JSON list).",
    )
    ray_jobs: int = Field(default=4, ge=1, description="Most jobs that the hub has on the cluster at a time.")
    session_days: float = Field(default=7.0, gt=0, le=366, description="How long a browser stays signed in.")
    oidc_issuer: str = Field(default="", description="Address of the OpenID provider by which people may sign in.")
    oidc_client_id: str = Field(default="", description="What the OpenID provider calls this hub.")
    oidc_client_secret_file: Path | None = Field(
        default=None, description="File with the secret that the OpenID provider gave; none for public clients."
    )
    oidc_name: str = Field(default="single sign-on", description="What people call the OpenID provider, on the button.")
    oidc_role_claim: str = Field(default="groups", description="Claim of the ID token that tells a person's role.")
    oidc_roles: list[str] = Field(
        default=[],
        description="Role for a word in that claim, as WORD=viewer, WORD=operator or WORD=admin (a JSON list).",
    )
    oidc_default_role: str = Field(
        default="viewer",
        pattern="^(none|viewer|operator|admin)$",
        description="Role of those whose words have none; `none` refuses them.",
    )
    oidc_domains: list[str] = Field(
        default=[], description="Domains of the e-mail addresses that may sign in; empty: all (a JSON list)."
    )
    audit_days: float = Field(default=365.0, gt=0, description="How long the audit log keeps an entry.")

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'milonga.db'}"
