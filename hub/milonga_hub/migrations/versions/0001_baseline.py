"""What there was when revisions began.

Tables from before that are taken up with all that is in them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.schema import CreateIndex, CreateTable

revision = "0001"
down_revision = None

_TABLES = sa.MetaData()
# SQLite numbers rows by itself where they are INTEGER, and only there.
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WORD = sa.String(64)
# Bytes in columns of text: SQLite takes both.
_PACKED = sa.Text().with_variant(sa.LargeBinary(), "postgresql")
# Of earlier versions, and would refuse rows of this one.
_RETIRED = {"device": ("secret_hash", "enrolment_key_hash", "boot_id")}


def upgrade() -> None:
    there = set() if context.is_offline_mode() else {*sa.inspect(op.get_bind()).get_table_names()}
    for table in _TABLES.sorted_tables:
        if table.name in there:
            _take_up(table)
        else:
            op.execute(CreateTable(table))
        for index in table.indexes:
            op.execute(CreateIndex(index, if_not_exists=table.name in there))


def downgrade() -> None:
    for table in reversed(_TABLES.sorted_tables):
        op.drop_table(table.name)


def _take_up(table: sa.Table) -> None:
    """Add what an earlier version did not have, filled with its default, and drop what this one has no more."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table.name)}
    for name in _RETIRED.get(table.name, ()):
        if name in there:
            op.drop_column(table.name, name)
    for column in table.columns:
        if column.name not in there:
            op.add_column(table.name, _filled(column))


def _filled(column: sa.Column[Any]) -> sa.Column[Any]:
    if not isinstance(column.default, sa.ColumnDefault):
        return sa.Column(column.name, column.type)
    value = column.default.arg
    literal = (
        f"x'{value.hex()}'"
        if isinstance(value, bytes)
        else str(sa.literal(value).compile(dialect=op.get_context().dialect, compile_kwargs={"literal_binds": True}))
    )
    return sa.Column(column.name, column.type, nullable=column.nullable, server_default=sa.text(literal))


sa.Table(
    "account",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("role", _WORD, nullable=False, default="VIEWER"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("signed_in_at", sa.DateTime),
    sa.Column("password_hash", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False, default=""),
    sa.Column("language", sa.String, nullable=False, default=""),
    sa.Index("ix_account_subject", "subject"),
)
sa.Table(
    "alert",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("rule", sa.String, nullable=False),
    sa.Column("signal", _WORD, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("project", sa.String, nullable=False, default=""),
    sa.Column("severity", _WORD, nullable=False, default="WARNING"),
    sa.Column("state", _WORD, nullable=False, default="OPEN"),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("next_step", sa.String, nullable=False, default=""),
    sa.Column("value", sa.Float),
    sa.Column("threshold", sa.Float),
    sa.Column("since", sa.DateTime, nullable=False),
    sa.Column("opened_at", sa.DateTime, nullable=False),
    sa.Column("resolved_at", sa.DateTime),
    sa.Column("resolution", sa.String, nullable=False, default=""),
    sa.Column("acknowledged_at", sa.DateTime),
    sa.Column("acknowledged_by", sa.String, nullable=False, default=""),
    sa.Column("note", sa.String, nullable=False, default=""),
    sa.Column("silenced_until", sa.DateTime),
    sa.Column("told_channels", sa.Text),
    sa.Index("ix_alert_project", "project"),
    sa.Index("ix_alert_rule", "rule"),
    sa.Index("ix_alert_state", "state"),
    sa.Index("ix_alert_subject", "subject"),
)
sa.Table(
    "alert_channel",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)
sa.Table(
    "alert_delivery",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("channel", sa.String, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="PENDING"),
    sa.Column("attempts", _WHOLE, nullable=False, default=0),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("next_attempt_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("alerts", sa.Text, nullable=False, default="[]"),
    sa.Column("body", sa.String, nullable=False, default=""),
    sa.Index("ix_alert_delivery_state", "state"),
)
sa.Table(
    "alert_rule",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)
sa.Table(
    "api_key",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("label", sa.String, nullable=False, default=""),
    sa.Column("account", sa.String, nullable=False, default=""),
    sa.Column("role", _WORD, nullable=False, default="VIEWER"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("expires_at", sa.DateTime, nullable=False),
    sa.Column("used_at", sa.DateTime),
    sa.Column("scopes", sa.Text, nullable=False, default="[]"),
    sa.Column("projects", sa.Text, nullable=False, default="[]"),
    sa.Column("secret_hash", sa.String, nullable=False),
    sa.Index("ix_api_key_account", "account"),
    sa.Index("ix_api_key_secret_hash", "secret_hash"),
)
sa.Table(
    "assignment",
    _TABLES,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("generation", _WHOLE, nullable=False),
    sa.Column("bundle", sa.String, nullable=False, default=""),
    sa.Column("files", sa.Text, nullable=False, default="[]"),
    sa.Column("model_version", sa.String, nullable=False, default=""),
    sa.Column("project", sa.String, nullable=False, default=""),
    sa.Column("expected_ms", sa.Float, nullable=False, default=0.0),
    sa.Column("engine", sa.String, nullable=False, default=""),
    sa.Column("shadow", sa.Text),
    sa.Column("assigned_at", sa.DateTime, nullable=False),
)
sa.Table(
    "audit_entry",
    _TABLES,
    sa.Column("id", _WHOLE, primary_key=True),
    sa.Column("at", sa.DateTime, nullable=False),
    sa.Column("caller", sa.String, nullable=False),
    sa.Column("kind", _WORD),
    sa.Column("key_id", sa.String, nullable=False, default=""),
    sa.Column("operation", sa.String, nullable=False),
    sa.Column("resource", sa.String, nullable=False, default=""),
    sa.Column("outcome", sa.String, nullable=False, default=""),
    sa.Column("address", sa.String, nullable=False, default=""),
    sa.Index("ix_audit_entry_at", "at"),
    sa.Index("ix_audit_entry_caller", "caller"),
)
sa.Table(
    "browser_session",
    _TABLES,
    sa.Column("secret_hash", sa.String, primary_key=True),
    sa.Column("account", sa.String, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("expires_at", sa.DateTime, nullable=False),
    sa.Index("ix_browser_session_account", "account"),
)
sa.Table(
    "build",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("device_type", sa.String, nullable=False),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("precision", sa.String, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="BUILDING"),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("subnet", sa.String, nullable=False, default=""),
    sa.Column("bundle", sa.String, nullable=False, default=""),
    sa.Column("files", sa.Text, nullable=False, default="[]"),
    sa.Column("size_bytes", _WHOLE, nullable=False, default=0),
    sa.Column("accuracy", sa.Float),
    sa.Column("subnet_accuracy", sa.Float),
    sa.Column("max_abs_error", sa.Float),
    sa.Column("predicted_ms", sa.Float),
    sa.Column("measured_ms", sa.Float),
    sa.Column("chosen", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("task", _WORD, nullable=False, default="CLASSIFICATION"),
    sa.Column("measured_half_width_ms", sa.Float),
    sa.Column("measured_on", sa.String, nullable=False, default=""),
    sa.Column("measuring_error", sa.String, nullable=False, default=""),
    sa.Column("gates", sa.Text, nullable=False, default="[]"),
    sa.Column("decision", sa.String, nullable=False, default=""),
    sa.Column("override", sa.Text),
    sa.Column("log", sa.String, nullable=False, default=""),
    sa.Column("in_progress", sa.Boolean, nullable=False, default=False),
    sa.Column("stages", sa.Text, nullable=False, default="[]"),
    sa.Index("ix_build_bundle", "bundle"),
    sa.Index("ix_build_in_progress", "in_progress"),
    sa.Index("ix_build_model_version", "model_version"),
)
sa.Table(
    "build_order",
    _TABLES,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False, default="{}"),
    sa.Column("latency_ms", sa.Float),
    sa.Column("model_bytes", _WHOLE),
    sa.Column("predicted_ms", sa.Float),
)
sa.Table(
    "candidate",
    _TABLES,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("device_type", sa.String, nullable=False),
    sa.Column("subnet", sa.String, nullable=False),
    sa.Column("precision", sa.String, nullable=False, default="fp32"),
    sa.Column("description", sa.String, nullable=False, default=""),
    sa.Column("predicted_accuracy", sa.Float),
    sa.Column("accuracy", sa.Float),
    sa.Column("predicted_ms", sa.Float),
    sa.Column("predicted_low_ms", sa.Float),
    sa.Column("predicted_high_ms", sa.Float),
    sa.Column("measured_ms", sa.Float),
    sa.Column("macs", _WHOLE, nullable=False, default=0),
    sa.Column("params", _WHOLE, nullable=False, default=0),
    sa.Column("on_front", sa.Boolean, nullable=False, default=False),
    sa.Column("chosen", sa.Boolean, nullable=False, default=False),
    sa.Column("note", sa.String, nullable=False, default=""),
    sa.Column("drawing", sa.String, nullable=False, default=""),
    sa.Column("choices", sa.Text, nullable=False, default="{}"),
    sa.Column("model_bytes", _WHOLE, nullable=False, default=0),
    sa.Index("ix_candidate_run", "run"),
)
sa.Table(
    "dataset",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("latest_version", _WHOLE, nullable=False, default=0),
    sa.Column("classes", sa.Text, nullable=False, default="[]"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("task", _WORD, nullable=False, default="CLASSIFICATION"),
)
sa.Table(
    "dataset_import",
    _TABLES,
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("request_id", sa.String, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
)
sa.Table(
    "dataset_version",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("number", _WHOLE, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("classes", sa.Text, nullable=False, default="[]"),
    sa.Column("train_count", _WHOLE, nullable=False, default=0),
    sa.Column("validation_count", _WHOLE, nullable=False, default=0),
    sa.Column("class_counts", sa.Text, nullable=False, default="{}"),
    sa.Column("added_count", _WHOLE, nullable=False, default=0),
    sa.Column("duplicate_count", _WHOLE, nullable=False, default=0),
    sa.Column("rejected", sa.Text, nullable=False, default="[]"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("task", _WORD, nullable=False, default="CLASSIFICATION"),
    sa.Column("notes", sa.Text, nullable=False, default="[]"),
    sa.Column("layout", _WORD),
    sa.Column("listing", sa.String, nullable=False, default=""),
    sa.Column("request_id", sa.String, nullable=False, default=""),
    sa.Index("ix_dataset_version_dataset", "dataset"),
    sa.Index("ix_dataset_version_request_id", "request_id"),
)
sa.Table(
    "device",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("device_type", sa.String, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="OFFLINE"),
    sa.Column("labels", sa.Text, nullable=False, default="{}"),
    sa.Column("simulated", sa.Boolean, nullable=False, default=False),
    sa.Column(
        "inventory",
        sa.Text,
        nullable=False,
        default='{"hostname":"","machine_id":"","board":"","architecture":"","cpu_model":"","cpu_features":[],"cores":0,"threads":0,"memory_bytes":0,"disk_free_bytes":0,"os":"","kernel":"","python":"","compatible":[],"time_zone":"","engines":[],"accelerators":[],"thermal_zones":[]}',
    ),
    sa.Column("agent_version", sa.String, nullable=False, default=""),
    sa.Column("enrolled_at", sa.DateTime, nullable=False),
    sa.Column("seen_at", sa.DateTime),
    sa.Column("assigned_generation", _WHOLE, nullable=False, default=0),
    sa.Column("reported_generation", _WHOLE, nullable=False, default=0),
    sa.Column("active_version", sa.String, nullable=False, default=""),
    sa.Column("active_engine", sa.String, nullable=False, default=""),
    sa.Column("active_bundle", sa.String, nullable=False, default=""),
    sa.Column("status_message", sa.String, nullable=False, default=""),
    sa.Column("serving_url", sa.String, nullable=False, default=""),
    sa.Column("key_fingerprint", sa.String, nullable=False, default=""),
    sa.Column("certificate_expires_at", sa.DateTime),
    sa.Column("revoked_at", sa.DateTime),
    sa.Column("cloned_at", sa.DateTime),
    sa.Column("pinned_version", sa.String, nullable=False, default=""),
    sa.Column("wanted_restarts", _WHOLE, nullable=False, default=0),
    sa.Column("restarts", _WHOLE, nullable=False, default=0),
    sa.Column("wanted_profiles", _WHOLE, nullable=False, default=0),
    sa.Column("profiles", _WHOLE, nullable=False, default=0),
    sa.Column("boot_ids", sa.Text, nullable=False, default="[]"),
    sa.Column("knows_shadows", sa.Boolean, nullable=False, default=False),
    sa.Index("ix_device_device_type", "device_type"),
)
sa.Table(
    "device_build",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True, default=""),
    sa.Column("device", sa.String, nullable=False, default=""),
    sa.Column("bundle", sa.String, nullable=False, default=""),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("precision", sa.String, nullable=False),
    sa.Column("engine_version", sa.String, nullable=False, default=""),
    sa.Column("gpu", sa.String, nullable=False, default=""),
    sa.Column("state", _WORD, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False, default=0.0),
    sa.Column("cached", sa.Boolean, nullable=False, default=False),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("max_abs_error", sa.Float),
    sa.Column("reported_at", sa.DateTime, nullable=False),
    sa.Index("ix_device_build_bundle", "bundle"),
    sa.Index("ix_device_build_device", "device"),
)
sa.Table(
    "device_type",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False, default=False),
    sa.Column(
        "inventory",
        sa.Text,
        nullable=False,
        default='{"hostname":"","machine_id":"","board":"","architecture":"","cpu_model":"","cpu_features":[],"cores":0,"threads":0,"memory_bytes":0,"disk_free_bytes":0,"os":"","kernel":"","python":"","compatible":[],"time_zone":"","engines":[],"accelerators":[],"thermal_zones":[]}',
    ),
    sa.Column("device_count", _WHOLE, nullable=False, default=0),
    sa.Column("verification", _WORD, nullable=False, default="UNVERIFIED"),
    sa.Column("known_type", sa.String, nullable=False, default=""),
    sa.Column("targets", sa.Text, nullable=False, default="[]"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Index("ix_device_type_fingerprint", "fingerprint", unique=True),
)
sa.Table(
    "drift_event",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("signal", sa.String, nullable=False),
    sa.Column("statistic", sa.Float, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("p_value", sa.Float, nullable=False),
    sa.Column("sample_count", _WHOLE, nullable=False),
    sa.Column("detected_at", sa.DateTime, nullable=False),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("triggered_run", sa.String, nullable=False, default=""),
    sa.Column("began_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Index("ix_drift_event_project", "project"),
)
sa.Table(
    "failed_sign_ins",
    _TABLES,
    sa.Column("subject", sa.String, primary_key=True),
    sa.Column("count", _WHOLE, nullable=False, default=0),
    sa.Column("last_at", sa.DateTime, nullable=False),
    sa.Index("ix_failed_sign_ins_last_at", "last_at"),
)
sa.Table(
    "issued_certificate",
    _TABLES,
    sa.Column("serial", sa.String, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("key_fingerprint", sa.String, nullable=False),
    sa.Column("expires_at", sa.DateTime, nullable=False),
    sa.Index("ix_issued_certificate_device", "device"),
)
sa.Table(
    "join_request",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("key_fingerprint", sa.String, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="PENDING"),
    sa.Column(
        "inventory",
        sa.Text,
        nullable=False,
        default='{"hostname":"","machine_id":"","board":"","architecture":"","cpu_model":"","cpu_features":[],"cores":0,"threads":0,"memory_bytes":0,"disk_free_bytes":0,"os":"","kernel":"","python":"","compatible":[],"time_zone":"","engines":[],"accelerators":[],"thermal_zones":[]}',
    ),
    sa.Column("labels", sa.Text, nullable=False, default="{}"),
    sa.Column("simulated", sa.Boolean, nullable=False, default=False),
    sa.Column("agent_version", sa.String, nullable=False, default=""),
    sa.Column("address", sa.String, nullable=False, default=""),
    sa.Column("requested_at", sa.DateTime, nullable=False),
    sa.Column("asked_at", sa.DateTime, nullable=False),
    sa.Index("ix_join_request_device", "device"),
)
sa.Table(
    "join_token",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("labels", sa.Text, nullable=False, default="{}"),
    sa.Column("uses_left", _WHOLE, nullable=False, default=1),
    sa.Column("expires_at", sa.DateTime, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("secret_hash", sa.String, nullable=False, default=""),
    sa.Index("ix_join_token_secret_hash", "secret_hash"),
)
sa.Table(
    "known_bundle",
    _TABLES,
    sa.Column("bundle", sa.String, primary_key=True),
    sa.Column("model_version", sa.String, nullable=False, default=""),
    sa.Column("project", sa.String, nullable=False, default=""),
    sa.Column("engine", sa.String, nullable=False, default=""),
)
sa.Table(
    "known_subnet",
    _TABLES,
    sa.Column("subnet", sa.String, primary_key=True),
    sa.Column("space", sa.String, nullable=False),
    sa.Column("resolution_px", _WHOLE, nullable=False),
    sa.Column("encoding", sa.Text, nullable=False),
    sa.Index("ix_known_subnet_space", "space"),
)
sa.Table(
    "measurement",
    _TABLES,
    sa.Column("peak_memory_bytes", _WHOLE, nullable=False, default=0),
    sa.Column("median_half_width_ms", sa.Float),
    sa.Column("drift_ratio", sa.Float),
    sa.Column("settled", sa.Boolean),
    sa.Column("throttled", sa.Boolean, nullable=False, default=False),
    sa.Column("drifting", sa.Boolean, nullable=False, default=False),
    sa.Column("attempts", _WHOLE, nullable=False, default=0),
    sa.Column("cooled_seconds", sa.Float, nullable=False, default=0.0),
    sa.Column("pinned_cpus", sa.Text, nullable=False, default="[]"),
    sa.Column("temperature_begin_celsius", sa.Float),
    sa.Column("temperature_max_celsius", sa.Float),
    sa.Column("temperature_celsius", sa.Float),
    sa.Column("frequency_begin_mhz", sa.Float),
    sa.Column("frequency_min_mhz", sa.Float),
    sa.Column("frequency_end_mhz", sa.Float),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("device_type", sa.String, nullable=False),
    sa.Column("subnet", sa.String, nullable=False),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("precision", sa.String, nullable=False),
    sa.Column("median_ms", sa.Float),
    sa.Column("p90_ms", sa.Float),
    sa.Column("p99_ms", sa.Float),
    sa.Column("repeats", _WHOLE, nullable=False, default=0),
    sa.Column("measured_at", sa.DateTime, nullable=False),
    sa.Column("run", sa.String, nullable=False, default=""),
    sa.Column("purpose", sa.String, nullable=False, default=""),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Index("ix_measurement_device_type", "device_type"),
    sa.Index("ix_measurement_run", "run"),
    sa.Index("ix_measurement_subnet", "subnet"),
)
sa.Table(
    "model",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("latest_version", _WHOLE, nullable=False, default=0),
)
sa.Table(
    "model_version",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("number", _WHOLE, nullable=False),
    sa.Column("run", sa.String, nullable=False, default=""),
    sa.Column("dataset_version", sa.String, nullable=False, default=""),
    sa.Column("supernet", sa.String, nullable=False, default=""),
    sa.Column("subnets", sa.Text, nullable=False, default="{}"),
    sa.Column("accuracies", sa.Text, nullable=False, default="{}"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("task", _WORD, nullable=False, default="CLASSIFICATION"),
    sa.Column("checkpoints", sa.Text, nullable=False, default="{}"),
    sa.Column("imported", sa.Text),
    sa.Index("ix_model_version_model", "model"),
    sa.Index("ix_model_version_run", "run"),
)
sa.Table(
    "project",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("spec_generation", _WHOLE, nullable=False, default=1),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)
sa.Table(
    "project_change",
    _TABLES,
    sa.Column("project", sa.String, primary_key=True),
    sa.Column("request_id", sa.String, primary_key=True),
    sa.Column("changes", sa.Text, nullable=False, default="[]"),
)
sa.Table(
    "rollout",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="RUNNING"),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("selector", sa.String),
    sa.Column(
        "spec",
        sa.Text,
        nullable=False,
        default='{"waves":[0.34,0.66],"soak_seconds":60.0,"max_failure_ratio":0.0,"canaries":"","wave_sizes":[],"priorities":[],"max_concurrent":0,"windows":[],"late_after_seconds":null,"approval":false,"shadow":null}',
    ),
    sa.Column("waves", sa.Text, nullable=False, default="[]"),
    sa.Column("devices", sa.Text, nullable=False, default="[]"),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("request_id", sa.String, nullable=False, default=""),
    sa.Index("ix_rollout_project", "project"),
    sa.Index("ix_rollout_request_id", "request_id"),
)
sa.Table(
    "run",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("number", _WHOLE, nullable=False),
    sa.Column("state", _WORD, nullable=False, default="QUEUED"),
    sa.Column("trigger", _WORD, nullable=False, default="MANUAL"),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("stages", sa.Text, nullable=False),
    sa.Column("error", sa.String, nullable=False, default=""),
    sa.Column("dataset_version", sa.String, nullable=False, default=""),
    sa.Column("base_run", sa.String, nullable=False, default=""),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("outcome", sa.String, nullable=False, default=""),
    sa.Column("task", _WORD, nullable=False, default="CLASSIFICATION"),
    sa.Column("comparisons", sa.Text, nullable=False, default="[]"),
    sa.Column("request_id", sa.String, nullable=False, default=""),
    sa.Column("spec_json", sa.String, nullable=False, default=""),
    sa.Column("imported", sa.Text),
    sa.Column("history", sa.Text, nullable=False, default="[]"),
    sa.Index("ix_run_project", "project"),
    sa.Index("ix_run_request_id", "request_id"),
)
sa.Table(
    "sample",
    _TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("device_type", sa.String, nullable=False, default=""),
    sa.Column("model_version", sa.String, nullable=False, default=""),
    sa.Column("reason", _WORD, nullable=False, default="RANDOM"),
    sa.Column("predicted", sa.String, nullable=False, default=""),
    sa.Column("predicted_boxes", sa.Text, nullable=False, default="[]"),
    sa.Column("confidence", sa.Float, nullable=False, default=0.0),
    sa.Column("taken_at", sa.DateTime, nullable=False),
    sa.Column("received_at", sa.DateTime, nullable=False),
    sa.Column("width", _WHOLE, nullable=False, default=0),
    sa.Column("height", _WHOLE, nullable=False, default=0),
    sa.Column("size_bytes", _WHOLE, nullable=False, default=0),
    sa.Column("state", _WORD, nullable=False, default="WAITING"),
    sa.Column("label", sa.String, nullable=False, default=""),
    sa.Column("boxes", sa.Text, nullable=False, default="[]"),
    sa.Column("decided_by", sa.String, nullable=False, default=""),
    sa.Column("decided_at", sa.DateTime),
    sa.Column("like", sa.String, nullable=False, default=""),
    sa.Column("dataset_version", sa.String, nullable=False, default=""),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("look", sa.LargeBinary, nullable=False, default=b""),
    sa.Column("kept", sa.Boolean, nullable=False, default=True),
    sa.Column("arrival", sa.String, nullable=False, default=""),
    sa.Column("opinions", sa.Text, nullable=False, default="[]"),
    sa.Column("first_by", sa.String, nullable=False, default=""),
    sa.Column("first_at", sa.DateTime),
    sa.Index("ix_sample_arrival", "arrival"),
    sa.Index("ix_sample_first_by", "first_by"),
    sa.Index("ix_sample_queue", "project", "state"),
    sa.Index("ix_sample_received", "device", "received_at"),
)
sa.Table(
    "sample_source",
    _TABLES,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("project", sa.String, primary_key=True),
    sa.Column("dropped_count", _WHOLE, nullable=False, default=0),
    sa.Column("told_at", sa.DateTime, nullable=False),
)
sa.Table(
    "silence",
    _TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("rule", sa.String, nullable=False, default=""),
    sa.Column("subject", sa.String, nullable=False, default=""),
    sa.Column("reason", sa.String, nullable=False, default=""),
    sa.Column("created_by", sa.String, nullable=False, default=""),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("until", sa.DateTime, nullable=False),
)
sa.Table(
    "step_log",
    _TABLES,
    sa.Column("id", _WHOLE, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("generation", _WHOLE, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("attempt", _WHOLE, nullable=False, default=0),
    sa.Column("reported_at", sa.DateTime, nullable=False),
    sa.Index("ix_step_log_device", "device"),
)
sa.Table(
    "telemetry_added",
    _TABLES,
    sa.Column("id", _WHOLE, primary_key=True),
    sa.Column("window_id", _WHOLE, nullable=False, default=0),
)
sa.Table(
    "telemetry_total",
    _TABLES,
    sa.Column("project", sa.String, primary_key=True),
    sa.Column("model_version", sa.String, primary_key=True),
    sa.Column("step_seconds", _WHOLE, primary_key=True),
    sa.Column("started_at", sa.DateTime, primary_key=True),
    sa.Column("window_count", _WHOLE, nullable=False, default=0),
    sa.Column("request_count", _WHOLE, nullable=False, default=0),
    sa.Column("error_count", _WHOLE, nullable=False, default=0),
    sa.Column("log10_latency_ms", _PACKED),
    sa.Column("confidence", _PACKED),
    sa.Column("class_counts", _PACKED, nullable=False, default=b""),
    sa.Column("inputs", _PACKED, nullable=False, default=b""),
    sa.Column("cpu_percent", sa.Float),
    sa.Column("memory_bytes", _WHOLE, nullable=False, default=0),
    sa.Column("temperature_celsius", sa.Float),
    sa.Index("ix_telemetry_total_time", "step_seconds", "started_at", "project"),
)
sa.Table(
    "telemetry_window",
    _TABLES,
    sa.Column("device", sa.String, nullable=False),
    sa.Column("boot_id", sa.String, nullable=False),
    sa.Column("sequence", _WHOLE, nullable=False, default=0),
    sa.Column("started_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime, nullable=False),
    sa.Column("bundle", sa.String, nullable=False, default=""),
    sa.Column("model_version", sa.String, nullable=False, default=""),
    sa.Column("project", sa.String, nullable=False, default=""),
    sa.Column("request_count", _WHOLE, nullable=False, default=0),
    sa.Column("error_count", _WHOLE, nullable=False, default=0),
    sa.Column("log10_latency_ms", _PACKED),
    sa.Column("latency_ms", _PACKED),
    sa.Column("confidence", _PACKED),
    sa.Column("class_counts", _PACKED, nullable=False, default=b""),
    sa.Column("inputs", _PACKED, nullable=False, default=b""),
    sa.Column("cpu_percent", sa.Float),
    sa.Column("memory_bytes", _WHOLE, nullable=False, default=0),
    sa.Column("temperature_celsius", sa.Float),
    sa.Column("dropped_count", _WHOLE, nullable=False, default=0),
    sa.Column("id", _WHOLE, primary_key=True),
    sa.Column("received_at", sa.DateTime, nullable=False),
    sa.Column("resolution_seconds", _WHOLE, nullable=False, default=0),
    sa.UniqueConstraint("device", "boot_id", "sequence"),
    sa.Index("ix_telemetry_window_age", "device", "resolution_seconds", "ended_at"),
    sa.Index("ix_telemetry_window_device", "device"),
    sa.Index("ix_telemetry_window_ended_at", "ended_at"),
    sa.Index("ix_telemetry_window_project", "project"),
)
