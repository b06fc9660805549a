"""Who may do what: the one table of all gRPC methods, REST routes and pages. A gRPC method that is not
in it is refused to everybody; an address without a rule shows nothing to who is signed in, and takes changes from admins alone.

Devices have rules of their own: their certificates let them in at another port, and join tokens at the open method Enrol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from milonga_hub.callers import Role


@dataclass(frozen=True)
class Access:
    """What one operation asks for."""

    # None: everybody may, without saying who they are.
    least: Role | None
    # Whether it changes something, and is therefore written to the audit log.
    changes: bool = False


_SEES, _CHANGES = Access(Role.VIEWER), Access(Role.OPERATOR, changes=True)
# What everybody may change who is signed in: what is their own. The service looks at whose it is.
_OWN = Access(Role.VIEWER, changes=True)
_ADMIN_SEES, _ADMIN_CHANGES = Access(Role.ADMIN), Access(Role.ADMIN, changes=True)
_OPEN, _OPEN_CHANGES = Access(None), Access(None, changes=True)


def _methods(service: str, rules: Mapping[Access, str]) -> dict[str, Access]:
    return {f"/{service}/{name}": access for access, names in rules.items() for name in names.split()}


GRPC: Mapping[str, Access] = {
    **_methods(
        "milonga.v1.AccountService",
        {
            _OPEN: "DescribeSignIn",
            _OPEN_CHANGES: "SignIn",
            _SEES: "GetCaller ListApiKeys",
            _OWN: "SetPassword EndSessions CreateApiKey DeleteApiKey",
            _ADMIN_SEES: "ListAccounts ListAuditEntries",
            _ADMIN_CHANGES: "CreateAccount SetAccountRole DeleteAccount",
        },
    ),
    **_methods(
        "milonga.v1.DeviceService",
        {
            _SEES: "ListJoinTokens GetDevice ListDevices ListJoinRequests WatchDevices ListDeviceTypes ListMeasurements"
            " ListDeviceBuilds ListDeviceSteps GetDeviceTransfers",
            _CHANGES: "CreateJoinToken UpdateDevice DeleteDevice RevokeDevice PinDevice ApproveJoinRequest"
            " RefuseJoinRequest RestartDevice ProfileDevice UpgradeDevice"
            # Logs may tell more than viewers need to know, and who looked is written down.
            " GetDeviceLog DiagnoseDevice",
        },
    ),
    **_methods("milonga.v1.EnrolmentService", {_OPEN: "Enrol GetTime"}),
    **_methods(
        "milonga.v1.DatasetService",
        {_SEES: "GetDataset ListDatasets ListDatasetVersions DownloadDatasetVersion", _CHANGES: "ImportDataset"},
    ),
    **_methods(
        "milonga.v1.ProjectService",
        {_SEES: "GetProject GetProjectUsage GetDueRun ListProjects", _CHANGES: "ApplyProject"},
    ),
    **_methods(
        "milonga.v1.RunService",
        {
            _SEES: "GetRun ListRuns WatchRun ListCandidates DownloadRun",
            _CHANGES: "StartRun CancelRun ResumeRun ApproveRun RefuseRun",
        },
    ),
    **_methods(
        "milonga.v1.ModelService",
        {
            _SEES: "ListModels GetModelVersion ListModelVersions DownloadCheckpoint DownloadNetwork",
            _CHANGES: "ImportModel",
        },
    ),
    **_methods(
        "milonga.v1.BuildService",
        {
            _SEES: "GetBuild ListBuilds WatchBuild GetBuildLog GetBuildManifest DownloadBuild",
            _CHANGES: "StartBuild CancelBuild OverrideBuild ChooseBuild",
        },
    ),
    **_methods(
        "milonga.v1.RolloutService",
        {
            _SEES: "GetRollout ListRollouts WatchRollout",
            _CHANGES: "CreateRollout UpgradeAgents ApproveRollout PauseRollout ResumeRollout RetryRollout AbortRollout RollBackRollout",
        },
    ),
    **_methods(
        "milonga.v1.TelemetryService",
        {_SEES: "QueryTelemetry ListDriftEvents EstimateAccuracy GetRefusedTelemetry WatchTelemetry"},
    ),
    **_methods(
        "milonga.v1.LabellingService",
        {
            _SEES: "ListSamples GetSample GetSamplePicture GetLabelling",
            _CHANGES: "LabelSample SkipSample UndoSample AddLabelledSamples DiscardSamples",
        },
    ),
    **_methods(
        "milonga.v1.AlertService",
        {
            _SEES: "ListAlerts GetAlert ListSilences ListAlertRules ListAlertChannels",
            _CHANGES: "AcknowledgeAlert CreateSilence EndSilence ApplyAlertRule DeleteAlertRule ApplyAlertChannel"
            " DeleteAlertChannel TestAlertChannel",
        },
    ),
    **_methods(
        "milonga.v1.WebhookService",
        {
            _SEES: "ListWebhooks ListWebhookDeliveries",
            _CHANGES: "ApplyWebhook DeleteWebhook TestWebhook RedeliverWebhook",
        },
    ),
    **_methods("milonga.v1.HubService", {_SEES: "ListHubs"}),
    **_methods("grpc.health.v1.Health", {_OPEN: "Check Watch List"}),
    **_methods("grpc.reflection.v1alpha.ServerReflection", {_OPEN: "ServerReflectionInfo"}),
}


def _routes(access: Access, prefix: str, lines: str) -> dict[str, Access]:
    """Return entries of lines like "POST DELETE /devices/{name}", GET where no method is named."""
    found = {}
    for line in lines.split("\n"):
        *methods, path = line.split() or [""]
        found.update({f"{method} {prefix}{path}": access for method in methods or ["GET"] if path})
    return found


# Patterns of paths as routes have them, after the method. Where several fit a request, the strictest holds.
HTTP: Mapping[str, Access] = {
    **_routes(
        _OPEN,
        "",
        """
        /healthz
        /readyz
        /static/{path:path}
        /sign-in
        /sign-in/provider
        /setup
        /install.sh
        /simple/
        /simple/{distribution}/
        /simple/{distribution}/{file_name}
        /wheelhouses/{platform}/{python}/
        /wheelhouses/{platform}/{python}/{file_name}
        """,
    ),
    **_routes(
        _OPEN_CHANGES,
        "",
        """
        POST /sign-in
        GET /sign-in/provider/back
        POST /setup
        """,
    ),
    **_routes(
        _OWN,
        "",
        """
        POST /sign-out
        POST /settings/language
        POST /settings/password
        POST /settings/sessions/end
        POST /settings/api_keys
        POST /settings/api_keys/{id}/delete
        DELETE /api/v1/api_keys/{id}
        POST /api/v1/api_keys
        POST /api/v1/accounts/{name}:set_password
        POST /api/v1/accounts/{name}:end_sessions
        """,
    ),
    **_routes(
        _ADMIN_SEES,
        "",
        """
        /settings/audit
        /settings/users
        /api/v1/accounts
        /api/v1/audit_entries
        """,
    ),
    **_routes(
        _ADMIN_CHANGES,
        "",
        """
        POST /settings/users
        POST /settings/users/{name}/role
        POST /settings/users/{name}/password
        POST /settings/users/{name}/delete
        POST /api/v1/accounts
        POST /api/v1/accounts/{name}:set_role
        DELETE /api/v1/accounts/{name}
        """,
    ),
    **_routes(
        _SEES,
        "",
        """
        /
        /api/docs
        /api/openapi.json
        /metrics
        /settings
        /settings/usage
        /settings/policies
        /settings/hubs
        /devices
        /devices/{name}
        /datasets
        /datasets/{name}
        /datasets/{name}/pictures/{digest}
        /projects
        /projects/{name}
        /labelling
        /labelling/{name}
        /labelling/{name}/standing
        /runs/{project}/{number}
        /runs/{project}/{number}/search
        /runs/{project}/{number}/log
        /models/{model}/builds
        /models/{model}/versions/{number}
        /models/{model}/versions/{number}/builds/{build}
        /models/{model}/versions/{number}/builds/{build}/network
        /rollouts
        /rollouts/{id}
        /monitoring
        /telemetry
        /alerts
        /alerts/{id}
        """,
    ),
    # Pages that only lead to changes ask for what the change asks for.
    **_routes(
        Access(Role.OPERATOR),
        "",
        """
        /new/devices
        /new/devices/{id}
        /new/datasets
        /new/models
        /new/projects
        /new/alert_rules
        /new/alert_channels
        /alert_rules/{name}
        /alert_channels/{name}
        /devices/{name}/log
        /devices/{name}/log/answer
        /settings/webhooks
        """,
    ),
    **_routes(
        _CHANGES,
        "",
        """
        POST /join_requests/{id_}/approve
        POST /join_requests/{id_}/refuse
        POST /devices
        POST /devices/{name}/revoke
        POST /devices/{name}/pin
        POST /devices/{name}/unpin
        POST /devices/{name}/restart
        POST /devices/{name}/profile
        POST /devices/{name}/upgrade
        POST /new/devices
        POST /new/projects
        POST /new/rollouts
        POST /projects/{name}/runs
        POST /labelling/{name}/add
        POST /labelling/{name}/conflicts
        POST /labelling/{name}/discard
        POST /labelling/{name}/sampling/{state}
        POST /runs/{project}/{number}/{verb}
        POST /models/{model}/versions/{number}/builds
        POST /models/{model}/versions/{number}/builds/{build}/override
        POST /models/{model}/versions/{number}/builds/{build}/choose
        POST /models/{model}/versions/{number}/builds/{build}/cancel
        POST /rollouts/{id}/{verb}
        POST /alerts/{id}/acknowledge
        POST /alerts/{id}/silence
        POST /alert_silences/{id}/end
        POST /alert_rules
        POST /alert_rules/{name}/delete
        POST /alert_channels
        POST /alert_channels/{name}/test
        POST /alert_channels/{name}/delete
        POST /settings/policies/{project}
        POST /settings/webhooks
        POST /settings/webhooks/{name}/test
        POST /settings/webhooks/{name}/redeliver
        POST /settings/webhooks/{name}/delete
        """,
    ),
    **_routes(
        _SEES,
        "/api/v1",
        """
        /me
        /api_keys
        /events
        /devices
        /devices/{device}
        /devices/{device}/steps
        /devices/{device}/transfers
        /join_requests
        /join_tokens
        /device_types
        /device_types/{device_type}
        /device_builds
        /measurements
        /datasets
        /datasets/{dataset}
        /datasets/{dataset}/versions
        /datasets/{dataset}/versions/{number}
        /datasets/{dataset}/versions/{number}/archive
        /projects
        /projects/{project}
        /projects/{project}/usage
        /projects/{project}/due_run
        /projects/{project}/labelling
        /projects/{project}/samples
        /projects/{project}/samples/{sample}
        /projects/{project}/samples/{sample}/picture
        /projects/{project}/runs/{number}
        /projects/{project}/runs/{number}/candidates
        /projects/{project}/runs/{number}/history
        /runs
        /models
        /models/{model}/versions
        /models/{model}/versions/{number}
        /models/{model}/versions/{number}/checkpoints/{device_type}
        /builds
        /models/{model}/versions/{number}/builds/{build}
        /models/{model}/versions/{number}/builds/{build}/log
        /models/{model}/versions/{number}/builds/{build}/manifest
        /models/{model}/versions/{number}/builds/{build}/example
        /models/{model}/versions/{number}/builds/{build}/bundle
        /rollouts
        /rollouts/{rollout}
        /telemetry
        /telemetry/accuracy
        /telemetry/refused
        /drift_events
        /alerts
        /alerts/{alert}
        /alert_silences
        /alert_rules
        /alert_channels
        /webhooks
        /webhook_deliveries
        /hubs
        """,
    ),
    **_routes(
        _CHANGES,
        "/api/v1",
        """
        PATCH DELETE /devices/{device}
        POST /devices/{device}:revoke
        POST /devices/{device}:pin
        POST /devices/{device}:unpin
        POST /devices/{device}:restart
        POST /devices/{device}:profile
        POST /devices/{device}:upgrade
        /devices/{device}/log
        /devices/{device}/diagnostics
        POST /join_requests/{request}:approve
        POST /join_requests/{request}:refuse
        POST /join_tokens
        POST /datasets/{dataset}:import
        POST /datasets/{dataset}/versions
        POST /projects/{project}:apply
        POST /projects/{project}/models:import
        POST /projects/{project}/labelling:add
        POST /projects/{project}/labelling:discard
        POST /projects/{project}/samples/{sample}:label
        POST /projects/{project}/samples/{sample}:skip
        POST /projects/{project}/samples/{sample}:undo
        POST /projects/{project}/runs
        POST /projects/{project}/runs/{number}:cancel
        POST /projects/{project}/runs/{number}:resume
        POST /projects/{project}/runs/{number}:approve
        POST /projects/{project}/runs/{number}:refuse
        POST /models/{model}/versions/{number}/builds
        POST /models/{model}/versions/{number}/builds/{build}:override
        POST /models/{model}/versions/{number}/builds/{build}:choose
        POST /models/{model}/versions/{number}/builds/{build}:cancel
        POST /rollouts
        POST /agent_upgrades
        POST /rollouts/{rollout}:approve
        POST /rollouts/{rollout}:pause
        POST /rollouts/{rollout}:retry
        POST /rollouts/{rollout}:resume
        POST /rollouts/{rollout}:abort
        POST /rollouts/{rollout}:roll_back
        POST /alerts/{alert}:acknowledge
        POST /alert_silences
        POST /alert_silences/{silence}:end
        POST /alert_rules/{rule}:apply
        DELETE /alert_rules/{rule}
        POST /alert_channels/{channel}:apply
        DELETE /alert_channels/{channel}
        POST /alert_channels/{channel}:test
        POST /webhooks/{webhook}:apply
        POST /webhooks/{webhook}:test
        POST /webhooks/{webhook}:redeliver
        DELETE /webhooks/{webhook}
        """,
    ),
}


def strictest(found: list[Access]) -> Access | None:
    """Return the access that asks for most, None where there is none."""
    return max(found, key=lambda access: (access.least is not None, _rank(access), access.changes), default=None)


def _rank(access: Access) -> int:
    return -1 if access.least is None else list(Role).index(access.least)
