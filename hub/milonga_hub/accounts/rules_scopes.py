"""What API keys can be limited to: scopes, by what the gate's own table of methods and routes is about.

`rollouts:write` lets a key change rollouts, and see them. What each operation needs comes of its service or path and
of whether it changes something, so that a new one has its scope from the beginning; tests/accounts/test_limits.py sees to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from milonga_hub.accounts.rules_access import GRPC, HTTP, Access
from milonga_hub.callers import Role
from milonga_hub.errors import InvalidInput

# What a service of the protocol is about.
_SERVICES = {
    "AccountService": "accounts",
    "AlertService": "alerts",
    "BuildService": "models",
    "DatasetService": "datasets",
    "DeviceService": "devices",
    "HubService": "telemetry",
    "LabellingService": "labelling",
    "ModelService": "models",
    "ProjectService": "projects",
    "RolloutService": "rollouts",
    "RunService": "runs",
    "TelemetryService": "telemetry",
    "WebhookService": "webhooks",
}
# What the last word of a path that names a kind of thing is about: /projects/{project}/runs is about runs.
_COLLECTIONS = {
    "accounts": "accounts",
    "agent_upgrades": "rollouts",
    "alert_channels": "alerts",
    "alert_rules": "alerts",
    "alert_silences": "alerts",
    "alerts": "alerts",
    "api_keys": "accounts",
    "audit_entries": "accounts",
    "builds": "models",
    "checkpoints": "models",
    "datasets": "datasets",
    "device_builds": "devices",
    "device_types": "devices",
    "devices": "devices",
    "drift_events": "telemetry",
    "hubs": "telemetry",
    "join_requests": "devices",
    "join_tokens": "devices",
    "labelling": "labelling",
    "measurements": "devices",
    "metrics": "telemetry",
    "models": "models",
    "projects": "projects",
    "rollouts": "rollouts",
    "runs": "runs",
    "samples": "labelling",
    "telemetry": "telemetry",
    "webhook_deliveries": "webhooks",
    "webhooks": "webhooks",
}
# A key may always ask who it is, and end itself.
_ANY_KEY = {
    "/milonga.v1.AccountService/GetCaller",
    "/milonga.v1.AccountService/DeleteApiKey",
    "GET /api/v1/me",
    "DELETE /api/v1/api_keys/{id}",
}
AREAS = tuple(sorted(set(_SERVICES.values())))
READ, WRITE = "read", "write"
SCOPES = tuple(f"{area}:{verb}" for area in AREAS for verb in (READ, WRITE))


def scope_of(operation: str, access: Access) -> str | None:
    """Return the scope that a key with scopes needs for an operation of the table: "" where it needs none, None where no
    scope is enough: pages are for people, and the stream of all events for keys without scopes.
    """
    if access.least is None or operation in _ANY_KEY:
        return ""
    area = _area(operation)
    return f"{area}:{WRITE if access.changes else READ}" if area else None


def _area(operation: str) -> str:
    if operation.startswith("/"):
        return _SERVICES.get(operation.split("/")[1].rpartition(".")[2], "")
    path = operation.partition(" ")[2]
    if path != "/metrics" and not path.startswith("/api/v1/"):
        return ""
    named = [_COLLECTIONS[part] for each in path.split("/") if (part := each.partition(":")[0]) in _COLLECTIONS]
    return named[-1] if named else ""


def allows(scopes: Iterable[str], needed: str) -> bool:
    """Return whether a key with these scopes has what is needed; who may write may read."""
    area, _, verb = needed.partition(":")
    return any(one in (needed, f"{area}:{WRITE}") if verb == READ else one == needed for one in scopes)


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return them in order, each once. Raises InvalidInput for one that there is not."""
    for one in scopes:
        if one not in SCOPES:
            raise InvalidInput(f"{one!r} is not a scope; take AREA:read or AREA:write, of {', '.join(AREAS)}")
    return tuple(sorted(set(scopes)))


def least_role(scopes: Iterable[str]) -> Role:
    """Return the least role that may something with each of these scopes."""
    needed = [_least(scope) for scope in scopes] or [Role.VIEWER]
    return max(needed, key=[*Role].index)


def _least(scope: str) -> Role:
    asked = [
        access.least
        for operation, access in (*GRPC.items(), *HTTP.items())
        if access.least is not None and scope_of(operation, access) == scope
    ]
    return min(asked, key=[*Role].index, default=Role.VIEWER)
