"""The hub's services for asyncio. Made from the protocol by `make protos`: change it there."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from milonga.client.async_calls import AsyncCalls
from milonga.client.content import Content
from milonga.client.times import timestamp
from milonga.v1 import (
    accounts_pb2,
    alerts_pb2,
    datasets_pb2,
    devices_pb2,
    hubs_pb2,
    labelling_pb2,
    models_pb2,
    projects_pb2,
    rollouts_pb2,
    telemetry_pb2,
    webhooks_pb2,
)


class AsyncAccounts:
    """People who sign in, the keys of their programs, and the record of who changed what."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def describe_sign_in(self, *, timeout: float | None = None) -> accounts_pb2.DescribeSignInResponse:
        """How to prove who one is. Asks for no key itself.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.DescribeSignInRequest()
        return await self._calls.unary(
            "/milonga.v1.AccountService/DescribeSignIn", request, accounts_pb2.DescribeSignInResponse, timeout
        )

    async def sign_in(
        self, name: str, *, password: str, label: str = "", timeout: float | None = None
    ) -> accounts_pb2.SignInResponse:
        """Takes a password and returns a new API key, for a command line that has none. Asks for no key itself.

        Args:
            password: Required.
            label: What the key is for, for example "kim on laptop".
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.SignInRequest(name=name, password=password, label=label)
        return await self._calls.unary(
            "/milonga.v1.AccountService/SignIn", request, accounts_pb2.SignInResponse, timeout
        )

    async def get_caller(self, *, timeout: float | None = None) -> accounts_pb2.Caller:
        """Who the caller is.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.GetCallerRequest()
        answer = await self._calls.unary(
            "/milonga.v1.AccountService/GetCaller", request, accounts_pb2.GetCallerResponse, timeout
        )
        return answer.caller

    def list_accounts(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[accounts_pb2.Account]:
        """Everybody who can sign in. Scope: accounts:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.ListAccountsRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.AccountService/ListAccounts",
            request,
            accounts_pb2.ListAccountsResponse,
            lambda page: page.accounts,
            timeout,
        )

    async def create_account(
        self, name: str, *, role: accounts_pb2.Role.ValueType, password: str, timeout: float | None = None
    ) -> accounts_pb2.Account:
        """Lets somebody sign in. Scope: accounts:write.

        Args:
            role: Required.
            password: Required.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.CreateAccountRequest(name=name, role=role, password=password)
        answer = await self._calls.unary(
            "/milonga.v1.AccountService/CreateAccount", request, accounts_pb2.CreateAccountResponse, timeout
        )
        return answer.account

    async def set_account_role(
        self, name: str, *, role: accounts_pb2.Role.ValueType, timeout: float | None = None
    ) -> accounts_pb2.Account:
        """Changes what somebody may do, and with it what their API keys may. Scope: accounts:write.

        Args:
            role: Required.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.SetAccountRoleRequest(name=name, role=role)
        answer = await self._calls.unary(
            "/milonga.v1.AccountService/SetAccountRole", request, accounts_pb2.SetAccountRoleResponse, timeout
        )
        return answer.account

    async def set_password(
        self, name: str, *, old_password: str = "", password: str, timeout: float | None = None
    ) -> accounts_pb2.Account:
        """Everybody may change their own, an admin everybody's. Ends all sessions of the account. Scope:
        accounts:write.

        Args:
            old_password: The one until now; an admin who sets somebody else's leaves it out.
            password: Required.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.SetPasswordRequest(name=name, old_password=old_password, password=password)
        answer = await self._calls.unary(
            "/milonga.v1.AccountService/SetPassword", request, accounts_pb2.SetPasswordResponse, timeout
        )
        return answer.account

    async def delete_account(self, name: str, *, timeout: float | None = None) -> None:
        """Ends its sessions and API keys too. Scope: accounts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.DeleteAccountRequest(name=name)
        await self._calls.unary(
            "/milonga.v1.AccountService/DeleteAccount", request, accounts_pb2.DeleteAccountResponse, timeout
        )

    async def end_sessions(self, name: str, *, timeout: float | None = None) -> int:
        """Signs the account out of all browsers. Everybody may do so for themselves, an admin for everybody. Scope:
        accounts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.EndSessionsRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.AccountService/EndSessions", request, accounts_pb2.EndSessionsResponse, timeout
        )
        return answer.ended

    async def create_api_key(
        self,
        label: str,
        *,
        role: accounts_pb2.Role.ValueType = accounts_pb2.ROLE_UNSPECIFIED,
        lifetime_seconds: int = 0,
        scopes: Sequence[str] = (),
        projects: Sequence[str] = (),
        timeout: float | None = None,
    ) -> accounts_pb2.CreateApiKeyResponse:
        """Makes a key for a program, which may at most what its owner may. Scope: accounts:write.

        Args:
            label: What it is for.
            role: Left out, the least role that may all of its scopes; without scopes it must be given.
            lifetime_seconds: 0 means 90 days.
            scopes: Such as "rollouts:write": AREA:read, or AREA:write for changing and seeing. None is all that the
                role may.
            projects: The projects that it is for; it sees and changes nothing of others, or that belongs to none.
                None is all.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.CreateApiKeyRequest(
            label=label, role=role, lifetime_seconds=lifetime_seconds, scopes=scopes, projects=projects
        )
        return await self._calls.unary(
            "/milonga.v1.AccountService/CreateApiKey", request, accounts_pb2.CreateApiKeyResponse, timeout
        )

    def list_api_keys(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[accounts_pb2.ApiKey]:
        """One's own; an admin sees all. Scope: accounts:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.ListApiKeysRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.AccountService/ListApiKeys",
            request,
            accounts_pb2.ListApiKeysResponse,
            lambda page: page.api_keys,
            timeout,
        )

    async def delete_api_key(self, id: str, *, timeout: float | None = None) -> None:
        """One's own; an admin may end all.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.DeleteApiKeyRequest(id=id)
        await self._calls.unary(
            "/milonga.v1.AccountService/DeleteApiKey", request, accounts_pb2.DeleteApiKeyResponse, timeout
        )

    def list_audit_entries(
        self, caller: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[accounts_pb2.AuditEntry]:
        """The newest first. Scope: accounts:read.

        Args:
            caller: Only of this caller, empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = accounts_pb2.ListAuditEntriesRequest(caller=caller, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.AccountService/ListAuditEntries",
            request,
            accounts_pb2.ListAuditEntriesResponse,
            lambda page: page.audit_entries,
            timeout,
        )


class AsyncAlerts:
    """What needs a person: rules watch the fleet, alerts stand while something is wrong, channels carry them."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    def list_alerts(
        self,
        *,
        state: alerts_pb2.AlertState.ValueType = alerts_pb2.ALERT_STATE_UNSPECIFIED,
        project: str = "",
        subject: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[alerts_pb2.Alert]:
        """What stands and what is over, the newest first. Scope: alerts:read.

        Args:
            state: Unspecified for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ListAlertsRequest(state=state, project=project, subject=subject, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.AlertService/ListAlerts",
            request,
            alerts_pb2.ListAlertsResponse,
            lambda page: page.alerts,
            timeout,
        )

    async def get_alert(self, id: str, *, timeout: float | None = None) -> alerts_pb2.GetAlertResponse:
        """One alert, and what became of the messages about it. Scope: alerts:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.GetAlertRequest(id=id)
        return await self._calls.unary(
            "/milonga.v1.AlertService/GetAlert", request, alerts_pb2.GetAlertResponse, timeout
        )

    async def acknowledge_alert(
        self, id: str, *, by: str = "", note: str = "", timeout: float | None = None
    ) -> alerts_pb2.Alert:
        """Somebody looks after it: nothing more is sent about it until it has resolved. Scope: alerts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.AcknowledgeAlertRequest(id=id, by=by, note=note)
        answer = await self._calls.unary(
            "/milonga.v1.AlertService/AcknowledgeAlert", request, alerts_pb2.AcknowledgeAlertResponse, timeout
        )
        return answer.alert

    async def create_silence(
        self,
        rule: str = "",
        *,
        subject: str = "",
        reason: str,
        created_by: str = "",
        until: datetime,
        request_id: str = "",
        timeout: float | None = None,
    ) -> alerts_pb2.Silence:
        """Alerts still open and resolve, but nothing is sent about them until the silence ends. Scope:
        alerts:write.

        Args:
            rule: Empty for all.
            reason: Required.
            until: Required, and ahead.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.CreateSilenceRequest(
            rule=rule,
            subject=subject,
            reason=reason,
            created_by=created_by,
            until=timestamp(until),
            request_id=request_id or uuid.uuid4().hex,
        )
        answer = await self._calls.unary(
            "/milonga.v1.AlertService/CreateSilence", request, alerts_pb2.CreateSilenceResponse, timeout
        )
        return answer.silence

    def list_silences(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[alerts_pb2.Silence]:
        """When nothing is sent, and who said so. Scope: alerts:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ListSilencesRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.AlertService/ListSilences",
            request,
            alerts_pb2.ListSilencesResponse,
            lambda page: page.silences,
            timeout,
        )

    async def end_silence(self, id: str, *, timeout: float | None = None) -> alerts_pb2.Silence:
        """Lets messages go out again. Scope: alerts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.EndSilenceRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.AlertService/EndSilence", request, alerts_pb2.EndSilenceResponse, timeout
        )
        return answer.silence

    def list_alert_rules(self, *, timeout: float | None = None) -> AsyncIterator[alerts_pb2.AlertRule]:
        """All rules, those that the hub comes with too. Scope: alerts:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ListAlertRulesRequest()
        return self._calls.rows(
            "/milonga.v1.AlertService/ListAlertRules",
            request,
            alerts_pb2.ListAlertRulesResponse,
            lambda page: page.rules,
            timeout,
        )

    async def apply_alert_rule(
        self, name: str, *, spec: alerts_pb2.AlertRuleSpec, dry_run: bool = False, timeout: float | None = None
    ) -> alerts_pb2.ApplyAlertRuleResponse:
        """Creates the rule or changes it; equal specs change nothing. Scope: alerts:write.

        Args:
            spec: Required.
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ApplyAlertRuleRequest(name=name, spec=spec, dry_run=dry_run)
        return await self._calls.unary(
            "/milonga.v1.AlertService/ApplyAlertRule", request, alerts_pb2.ApplyAlertRuleResponse, timeout
        )

    async def delete_alert_rule(self, name: str, *, timeout: float | None = None) -> None:
        """One that replaced a rule of the hub gives way to that again. Scope: alerts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.DeleteAlertRuleRequest(name=name)
        await self._calls.unary(
            "/milonga.v1.AlertService/DeleteAlertRule", request, alerts_pb2.DeleteAlertRuleResponse, timeout
        )

    def list_alert_channels(self, *, timeout: float | None = None) -> AsyncIterator[alerts_pb2.AlertChannel]:
        """Where messages go, without secrets. Scope: alerts:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ListAlertChannelsRequest()
        return self._calls.rows(
            "/milonga.v1.AlertService/ListAlertChannels",
            request,
            alerts_pb2.ListAlertChannelsResponse,
            lambda page: page.channels,
            timeout,
        )

    async def apply_alert_channel(
        self, name: str, *, spec: alerts_pb2.AlertChannelSpec, dry_run: bool = False, timeout: float | None = None
    ) -> alerts_pb2.ApplyAlertChannelResponse:
        """Creates the channel or changes it; equal specs change nothing. Scope: alerts:write.

        Args:
            spec: Required.
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.ApplyAlertChannelRequest(name=name, spec=spec, dry_run=dry_run)
        return await self._calls.unary(
            "/milonga.v1.AlertService/ApplyAlertChannel", request, alerts_pb2.ApplyAlertChannelResponse, timeout
        )

    async def delete_alert_channel(self, name: str, *, timeout: float | None = None) -> None:
        """Nothing is sent there any more. Scope: alerts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.DeleteAlertChannelRequest(name=name)
        await self._calls.unary(
            "/milonga.v1.AlertService/DeleteAlertChannel", request, alerts_pb2.DeleteAlertChannelResponse, timeout
        )

    async def test_alert_channel(self, name: str, *, timeout: float | None = None) -> str:
        """Sends a message now and says what came of it. Scope: alerts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = alerts_pb2.TestAlertChannelRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.AlertService/TestAlertChannel", request, alerts_pb2.TestAlertChannelResponse, timeout
        )
        return answer.answer


class AsyncBuilds:
    """What was built of a model version: one build a device type, engine and precision."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def get_build(self, name: str, *, timeout: float | None = None) -> models_pb2.Build:
        """One build with its figures, gates and files. Scope: models:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.GetBuildRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/GetBuild", request, models_pb2.GetBuildResponse, timeout
        )
        return answer.build

    def list_builds(
        self, model_version: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[models_pb2.Build]:
        """What was built of a model version. Scope: models:read.

        Args:
            model_version: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.ListBuildsRequest(model_version=model_version, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.BuildService/ListBuilds",
            request,
            models_pb2.ListBuildsResponse,
            lambda page: page.builds,
            timeout,
        )

    async def start_build(
        self,
        model_version: str,
        *,
        device_type: str,
        target: str,
        tuning_minutes: float = 0.0,
        tuning_site: models_pb2.TuningSite.ValueType = models_pb2.TUNING_SITE_UNSPECIFIED,
        tuning_device: str = "",
        timeout: float | None = None,
    ) -> models_pb2.Build:
        """Builds a device type's subnet for one target, outside a run. A build that is there stays in use until
        this one is done. Scope: models:write.

        Args:
            model_version: models/{model}/versions/{number}
            device_type: Required.
            target: Required: engine and precision, for example "openvino/int8".
            tuning_minutes: How long its kernels are tuned first; 0: not at all. Only tvm is tuned.
            tuning_site: Where; unspecified: on a device of the type.
            tuning_device: The device to tune on; empty for any of the type that is connected and has the engine.
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.StartBuildRequest(
            model_version=model_version,
            device_type=device_type,
            target=target,
            tuning_minutes=tuning_minutes,
            tuning_site=tuning_site,
            tuning_device=tuning_device,
        )
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/StartBuild", request, models_pb2.StartBuildResponse, timeout
        )
        return answer.build

    def watch_build(self, name: str) -> AsyncIterator[models_pb2.Build]:
        """Sends the build now and after every change, until it is not in progress. Scope: models:read."""
        request = models_pb2.WatchBuildRequest(name=name)
        return self._calls.watch(
            "/milonga.v1.BuildService/WatchBuild", request, models_pb2.WatchBuildResponse, lambda news: news.build
        )

    async def cancel_build(self, name: str, *, timeout: float | None = None) -> models_pb2.Build:
        """Ends a build that is made outside a run; what was built for the target before stays as it is. Scope:
        models:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.CancelBuildRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/CancelBuild", request, models_pb2.CancelBuildResponse, timeout
        )
        return answer.build

    async def override_build(
        self, name: str, *, by: str = "", reason: str, timeout: float | None = None
    ) -> models_pb2.Build:
        """Allows a build that is not VERIFIED on devices; the record keeps who, when and why. Scope: models:write.

        Args:
            reason: Required.
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.OverrideBuildRequest(name=name, by=by, reason=reason)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/OverrideBuild", request, models_pb2.OverrideBuildResponse, timeout
        )
        return answer.build

    async def choose_build(self, name: str, *, timeout: float | None = None) -> models_pb2.Build:
        """Makes this the build that devices of its type get, in place of any other of its version. Scope:
        models:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.ChooseBuildRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/ChooseBuild", request, models_pb2.ChooseBuildResponse, timeout
        )
        return answer.build

    async def get_build_log(self, name: str, *, timeout: float | None = None) -> str:
        """What was done and what the engine printed; the newest where that is very long. Scope: models:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.GetBuildLogRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/GetBuildLog", request, models_pb2.GetBuildLogResponse, timeout
        )
        return answer.text

    async def get_build_manifest(self, name: str, *, timeout: float | None = None) -> str:
        """What the bundle says of itself to the device that runs it. Scope: models:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.GetBuildManifestRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.BuildService/GetBuildManifest", request, models_pb2.GetBuildManifestResponse, timeout
        )
        return answer.json

    def download_build(self, name: str, *, timeout: float | None = None) -> AsyncIterator[bytes]:
        """Sends the bundle as a zip file, with a program that runs it where there is one for its engine. Scope:
        models:read.

        Args:
            timeout: Seconds for all of it; None waits.
        """
        request = models_pb2.DownloadBuildRequest(name=name)
        return self._calls.download(
            "/milonga.v1.BuildService/DownloadBuild", request, models_pb2.DownloadBuildResponse, timeout
        )


class AsyncDatasets:
    """Labelled pictures, in immutable versions addressed by what they contain."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def import_dataset(
        self,
        dataset: str,
        content: Content,
        *,
        append: bool = False,
        strict: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> datasets_pb2.DatasetVersion:
        """Sends a zip or tar archive: class folders (CLASS/PICTURE) to classify, or to detect the layout of YOLO
        (data.yaml, images/, labels/), COCO (a JSON file beside pictures) or Pascal VOC (an XML file for each). The
        first message carries the header, the rest chunks. Scope: datasets:write.

        Args:
            append: Add to the newest version instead of replacing it.
            strict: Fail if any picture cannot be used, instead of leaving it out and saying so.
            content: The file: its path, itself opened, its bytes, or its chunks.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds for all of it; None waits.
        """
        header = datasets_pb2.ImportDatasetHeader(
            dataset=dataset, append=append, strict=strict, request_id=request_id or uuid.uuid4().hex
        )
        answer = await self._calls.upload(
            "/milonga.v1.DatasetService/ImportDataset",
            datasets_pb2.ImportDatasetRequest(header=header),
            lambda chunk: datasets_pb2.ImportDatasetRequest(chunk=chunk),
            content,
            datasets_pb2.ImportDatasetResponse,
            timeout,
        )
        return answer.dataset_version

    async def get_dataset(self, name: str, *, timeout: float | None = None) -> datasets_pb2.Dataset:
        """A data set with its classes and the number of its newest version. Scope: datasets:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = datasets_pb2.GetDatasetRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DatasetService/GetDataset", request, datasets_pb2.GetDatasetResponse, timeout
        )
        return answer.dataset

    def list_datasets(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[datasets_pb2.Dataset]:
        """All data sets, by name. Scope: datasets:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = datasets_pb2.ListDatasetsRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DatasetService/ListDatasets",
            request,
            datasets_pb2.ListDatasetsResponse,
            lambda page: page.datasets,
            timeout,
        )

    def list_dataset_versions(
        self, dataset: str, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[datasets_pb2.DatasetVersion]:
        """The versions of a data set, the newest first. Scope: datasets:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = datasets_pb2.ListDatasetVersionsRequest(dataset=dataset, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DatasetService/ListDatasetVersions",
            request,
            datasets_pb2.ListDatasetVersionsResponse,
            lambda page: page.dataset_versions,
            timeout,
        )

    def download_dataset_version(
        self,
        name: str,
        *,
        layout: datasets_pb2.DatasetLayout.ValueType = datasets_pb2.DATASET_LAYOUT_UNSPECIFIED,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Sends a version as a zip file in a layout that other tools know, with its splits; imported again, it has
        the same digest. Scope: datasets:read.

        Args:
            name: datasets/{dataset}/versions/{number}
            layout: Left out: class folders to classify, YOLO's to detect.
            timeout: Seconds for all of it; None waits.
        """
        request = datasets_pb2.DownloadDatasetVersionRequest(name=name, layout=layout)
        return self._calls.download(
            "/milonga.v1.DatasetService/DownloadDatasetVersion",
            request,
            datasets_pb2.DownloadDatasetVersionResponse,
            timeout,
        )


class AsyncDevices:
    """Devices, the types they fall into, and the tokens with which they join."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create_join_token(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        uses: int = 0,
        lifetime_seconds: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> devices_pb2.CreateJoinTokenResponse:
        """Makes a token with which devices enrol. The same `request_id` gives the same token and secret again.
        Scope: devices:write.

        Args:
            uses: 0 means one use.
            lifetime_seconds: 0 means 24 hours.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.CreateJoinTokenRequest(
            labels=labels, uses=uses, lifetime_seconds=lifetime_seconds, request_id=request_id or uuid.uuid4().hex
        )
        return await self._calls.unary(
            "/milonga.v1.DeviceService/CreateJoinToken", request, devices_pb2.CreateJoinTokenResponse, timeout
        )

    def list_join_tokens(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.JoinToken]:
        """Tokens that were made, without their secrets. Scope: devices:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListJoinTokensRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListJoinTokens",
            request,
            devices_pb2.ListJoinTokensResponse,
            lambda page: page.join_tokens,
            timeout,
        )

    async def get_device(self, name: str, *, timeout: float | None = None) -> devices_pb2.Device:
        """One device as the hub knows it: hardware, labels, what it serves and when it was seen. Scope:
        devices:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.GetDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/GetDevice", request, devices_pb2.GetDeviceResponse, timeout
        )
        return answer.device

    def list_devices(
        self, selector: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.Device]:
        """Devices that a selector matches, by name. Scope: devices:read.

        Args:
            selector: A selector: "type=pi5, site in (busan, seoul), !canary". Empty matches all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListDevicesRequest(selector=selector, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListDevices",
            request,
            devices_pb2.ListDevicesResponse,
            lambda page: page.devices,
            timeout,
        )

    async def update_device(
        self, name: str, *, labels: Mapping[str, str] | None = None, request_id: str = "", timeout: float | None = None
    ) -> devices_pb2.Device:
        """Sets the given labels and keeps the others; an empty value removes its label. Scope: devices:write.

        Args:
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.UpdateDeviceRequest(name=name, labels=labels, request_id=request_id or uuid.uuid4().hex)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/UpdateDevice", request, devices_pb2.UpdateDeviceResponse, timeout
        )
        return answer.device

    async def delete_device(self, name: str, *, timeout: float | None = None) -> None:
        """Forgets the device, ends its connections and refuses its certificate from now on. Scope: devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.DeleteDeviceRequest(name=name)
        await self._calls.unary(
            "/milonga.v1.DeviceService/DeleteDevice", request, devices_pb2.DeleteDeviceResponse, timeout
        )

    async def revoke_device(self, name: str, *, timeout: float | None = None) -> devices_pb2.Device:
        """Ends the device's connections and refuses its key for as long as the device is not deleted. Scope:
        devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.RevokeDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/RevokeDevice", request, devices_pb2.RevokeDeviceResponse, timeout
        )
        return answer.device

    def list_join_requests(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.JoinRequest]:
        """Machines that asked to join without a token. Scope: devices:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListJoinRequestsRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListJoinRequests",
            request,
            devices_pb2.ListJoinRequestsResponse,
            lambda page: page.join_requests,
            timeout,
        )

    async def approve_join_request(self, id: str, *, timeout: float | None = None) -> devices_pb2.JoinRequest:
        """Lets the machine in; it gets its certificate the next time that it asks. Scope: devices:write.

        Args:
            id: Its id, or the wanted name where only one request has it.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ApproveJoinRequestRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/ApproveJoinRequest", request, devices_pb2.ApproveJoinRequestResponse, timeout
        )
        return answer.join_request

    async def refuse_join_request(self, id: str, *, timeout: float | None = None) -> devices_pb2.JoinRequest:
        """Turns the machine away. Scope: devices:write.

        Args:
            id: Its id, or the wanted name where only one request has it.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.RefuseJoinRequestRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/RefuseJoinRequest", request, devices_pb2.RefuseJoinRequestResponse, timeout
        )
        return answer.join_request

    def watch_devices(self, selector: str = "") -> AsyncIterator[devices_pb2.Device]:
        """Sends all devices that match now, and each again after every change. Scope: devices:read.

        Args:
            selector: Empty matches all.
        """
        request = devices_pb2.WatchDevicesRequest(selector=selector)
        return self._calls.watch(
            "/milonga.v1.DeviceService/WatchDevices",
            request,
            devices_pb2.WatchDevicesResponse,
            lambda news: news.device,
        )

    def list_device_types(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.DeviceType]:
        """Kinds of devices by hardware and runtime: what is measured, searched and built for. Scope: devices:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListDeviceTypesRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListDeviceTypes",
            request,
            devices_pb2.ListDeviceTypesResponse,
            lambda page: page.device_types,
            timeout,
        )

    def list_measurements(
        self, device_type: str = "", *, run: str = "", page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.Measurement]:
        """Latencies of subnets and builds as devices measured them. Scope: devices:read.

        Args:
            device_type: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListMeasurementsRequest(device_type=device_type, run=run, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListMeasurements",
            request,
            devices_pb2.ListMeasurementsResponse,
            lambda page: page.measurements,
            timeout,
        )

    async def pin_device(
        self, name: str, *, model_version: str = "", timeout: float | None = None
    ) -> devices_pb2.Device:
        """Keeps the device on a version: rollouts of others leave it out. Scope: devices:write.

        Args:
            model_version: Empty lets go of it.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.PinDeviceRequest(name=name, model_version=model_version)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/PinDevice", request, devices_pb2.PinDeviceResponse, timeout
        )
        return answer.device

    async def get_device_log(
        self, name: str, *, cursor: str = "", max_bytes: int = 0, timeout: float | None = None
    ) -> devices_pb2.GetDeviceLogResponse:
        """What the agent of a connected device logged. Scope: devices:write.

        Args:
            cursor: Of an earlier answer: what was logged since then. Empty for the newest.
            max_bytes: 0 for 64 kB; 512 kB at most.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.GetDeviceLogRequest(name=name, cursor=cursor, max_bytes=max_bytes)
        return await self._calls.unary(
            "/milonga.v1.DeviceService/GetDeviceLog", request, devices_pb2.GetDeviceLogResponse, timeout
        )

    async def diagnose_device(self, name: str, *, timeout: float | None = None) -> bytes:
        """Log, state, inventory, versions and checks of a connected device in one file, without secrets. Scope:
        devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.DiagnoseDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/DiagnoseDevice", request, devices_pb2.DiagnoseDeviceResponse, timeout
        )
        return answer.content

    async def restart_device(self, name: str, *, timeout: float | None = None) -> devices_pb2.Device:
        """Wants the device's agent to start anew, now or when it connects. Scope: devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.RestartDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/RestartDevice", request, devices_pb2.RestartDeviceResponse, timeout
        )
        return answer.device

    async def profile_device(self, name: str, *, timeout: float | None = None) -> devices_pb2.Device:
        """Wants the device to probe its hardware and time its model again, now or when it connects. Scope:
        devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ProfileDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/ProfileDevice", request, devices_pb2.ProfileDeviceResponse, timeout
        )
        return answer.device

    async def upgrade_device(self, name: str, *, timeout: float | None = None) -> devices_pb2.Device:
        """Wants the device's agent to take the release of the hub in its own place, now or when it connects. One
        that does not start gives way to the agent before it. Scope: devices:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.UpgradeDeviceRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/UpgradeDevice", request, devices_pb2.UpgradeDeviceResponse, timeout
        )
        return answer.device

    def list_device_steps(
        self, device: str, *, generation: int = 0, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.DeviceStep]:
        """What a device reported of every step of its assignments. Scope: devices:read.

        Args:
            generation: Only of this assignment; 0 for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListDeviceStepsRequest(device=device, generation=generation, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListDeviceSteps",
            request,
            devices_pb2.ListDeviceStepsResponse,
            lambda page: page.steps,
            timeout,
        )

    async def get_device_transfers(self, name: str, *, timeout: float | None = None) -> devices_pb2.DeviceTransfers:
        """What came to a device of its builds, from where, and what it sent to its neighbours. Scope: devices:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.GetDeviceTransfersRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.DeviceService/GetDeviceTransfers", request, devices_pb2.GetDeviceTransfersResponse, timeout
        )
        return answer.transfers

    def list_device_builds(
        self, device: str = "", *, bundle: str = "", page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[devices_pb2.DeviceBuild]:
        """What devices built for themselves, and what came of it. Scope: devices:read.

        Args:
            device: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = devices_pb2.ListDeviceBuildsRequest(device=device, bundle=bundle, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.DeviceService/ListDeviceBuilds",
            request,
            devices_pb2.ListDeviceBuildsResponse,
            lambda page: page.device_builds,
            timeout,
        )


class AsyncHubs:
    """The hubs that serve one fleet together, on one PostgreSQL: any answers calls, and one of them leads."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def list_hubs(self, *, timeout: float | None = None) -> hubs_pb2.ListHubsResponse:
        """The hubs, the oldest first: those that are there, and for an hour those that ended without a word. Scope:
        telemetry:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = hubs_pb2.ListHubsRequest()
        return await self._calls.unary("/milonga.v1.HubService/ListHubs", request, hubs_pb2.ListHubsResponse, timeout)


class AsyncLabelling:
    """Pictures that devices sent to be labelled, and what people said of them."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    def list_samples(
        self,
        project: str,
        *,
        state: labelling_pb2.SampleState.ValueType = labelling_pb2.SAMPLE_STATE_UNSPECIFIED,
        device: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[labelling_pb2.Sample]:
        """In the order in which they should be labelled while they wait, else the newest first. Scope:
        labelling:read.

        Args:
            state: Unspecified: all, the newest first.
            device: Empty: of all devices.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.ListSamplesRequest(project=project, state=state, device=device, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.LabellingService/ListSamples",
            request,
            labelling_pb2.ListSamplesResponse,
            lambda page: page.samples,
            timeout,
        )

    async def get_sample(self, name: str, *, timeout: float | None = None) -> labelling_pb2.Sample:
        """One sample, with all that was decided of it. Scope: labelling:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.GetSampleRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/GetSample", request, labelling_pb2.GetSampleResponse, timeout
        )
        return answer.sample

    async def get_sample_picture(
        self, name: str, *, timeout: float | None = None
    ) -> labelling_pb2.GetSamplePictureResponse:
        """The picture as the device sent it. Scope: labelling:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.GetSamplePictureRequest(name=name)
        return await self._calls.unary(
            "/milonga.v1.LabellingService/GetSamplePicture", request, labelling_pb2.GetSamplePictureResponse, timeout
        )

    async def label_sample(
        self,
        name: str,
        *,
        label: str = "",
        boxes: Sequence[labelling_pb2.SampleBox] = (),
        accept: bool = False,
        decided_by: str = "",
        revision: int | None = None,
        timeout: float | None = None,
    ) -> labelling_pb2.Sample:
        """Says what a sample shows, or that the device was right. Scope: labelling:write.

        Args:
            label: A class of the data set, where the project tells classes apart.
            boxes: All objects, where it detects them; none says that there is no object.
            accept: Take the device's answer for right; then label and boxes must be empty.
            revision: Of the sample as it was seen. Where somebody decided something else since, nothing is changed,
                and the call fails with the reason DECIDED_MEANWHILE; not set, where somebody else decided anything
                else at all.
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.LabelSampleRequest(
            name=name, label=label, boxes=boxes, accept=accept, decided_by=decided_by, revision=revision
        )
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/LabelSample", request, labelling_pb2.LabelSampleResponse, timeout
        )
        return answer.sample

    async def skip_sample(
        self, name: str, *, decided_by: str = "", revision: int | None = None, timeout: float | None = None
    ) -> labelling_pb2.Sample:
        """Says that a sample is not worth a label; its picture is deleted soon. Scope: labelling:write.

        Args:
            revision: See LabelSampleRequest.
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.SkipSampleRequest(name=name, decided_by=decided_by, revision=revision)
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/SkipSample", request, labelling_pb2.SkipSampleResponse, timeout
        )
        return answer.sample

    async def undo_sample(
        self, name: str, *, revision: int | None = None, decided_by: str = "", timeout: float | None = None
    ) -> labelling_pb2.Sample:
        """Lets a sample wait again, as long as its label is not part of the data set. Scope: labelling:write.

        Args:
            revision: See LabelSampleRequest.
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.UndoSampleRequest(name=name, revision=revision, decided_by=decided_by)
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/UndoSample", request, labelling_pb2.UndoSampleResponse, timeout
        )
        return answer.sample

    async def add_labelled_samples(
        self, project: str, *, timeout: float | None = None
    ) -> labelling_pb2.AddLabelledSamplesResponse:
        """Makes what is labelled part of the project's data set now; the hub does it by itself after a while
        without labels. Scope: labelling:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.AddLabelledSamplesRequest(project=project)
        return await self._calls.unary(
            "/milonga.v1.LabellingService/AddLabelledSamples",
            request,
            labelling_pb2.AddLabelledSamplesResponse,
            timeout,
        )

    async def get_labelling(self, project: str, *, timeout: float | None = None) -> labelling_pb2.Labelling:
        """How much waits and is done, and how often devices were right. Scope: labelling:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.GetLabellingRequest(project=project)
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/GetLabelling", request, labelling_pb2.GetLabellingResponse, timeout
        )
        return answer.labelling

    async def discard_samples(self, project: str, *, timeout: float | None = None) -> int:
        """Deletes the pictures that wait; devices do not send them again. Scope: labelling:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = labelling_pb2.DiscardSamplesRequest(project=project)
        answer = await self._calls.unary(
            "/milonga.v1.LabellingService/DiscardSamples", request, labelling_pb2.DiscardSamplesResponse, timeout
        )
        return answer.discarded_count


class AsyncModels:
    """The registry: immutable versions with their lineage."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    def list_models(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[models_pb2.Model]:
        """Models of which there is a version, by name. Scope: models:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.ListModelsRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.ModelService/ListModels",
            request,
            models_pb2.ListModelsResponse,
            lambda page: page.models,
            timeout,
        )

    async def get_model_version(self, name: str, *, timeout: float | None = None) -> models_pb2.ModelVersion:
        """One version: the subnet of each device type, its accuracy, and where it came from. Scope: models:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.GetModelVersionRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.ModelService/GetModelVersion", request, models_pb2.GetModelVersionResponse, timeout
        )
        return answer.model_version

    def list_model_versions(
        self, model: str, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[models_pb2.ModelVersion]:
        """The versions of a model, the newest first. Scope: models:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = models_pb2.ListModelVersionsRequest(model=model, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.ModelService/ListModelVersions",
            request,
            models_pb2.ListModelVersionsResponse,
            lambda page: page.model_versions,
            timeout,
        )

    def download_checkpoint(
        self, name: str, *, device_type: str = "", timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Sends the chosen subnet of a device type as its family's own checkpoint file. Scope: models:read.

        Args:
            name: models/{model}/versions/{number}
            device_type: May be empty where the version has one device type.
            timeout: Seconds for all of it; None waits.
        """
        request = models_pb2.DownloadCheckpointRequest(name=name, device_type=device_type)
        return self._calls.download(
            "/milonga.v1.ModelService/DownloadCheckpoint", request, models_pb2.DownloadCheckpointResponse, timeout
        )

    async def import_model(
        self,
        project: str,
        content: Content,
        *,
        file_name: str = "",
        digest: str = "",
        classes: Sequence[str] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        resize: str = "",
        size_px: int = 0,
        dataset: str = "",
        trust_pickle: bool = False,
        by: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> models_pb2.ImportModelResponse:
        """Takes a network that was trained elsewhere: a header, then the file in chunks. Answers once the file is
        checked, with the run that builds it for the project's devices and makes a version of it; nothing is rolled
        out. Scope: models:write.

        Args:
            file_name: Its ending says what it is: .onnx, or .pt of ultralytics.
            digest: "sha256:" and 64 hexadecimal digits; what arrives must have it.
            classes: In the order of the outputs; may be empty where the file says them.
            mean: By channel, on the scale 0 to 1; may be empty for exports of ultralytics.
            std: As mean.
            resize: "stretch" or "letterbox"; empty: stretched to classify, letterboxed to detect.
            size_px: Of the pictures, for a file that leaves it open.
            dataset: Data set to judge and calibrate builds on; empty: the project's, which may be none.
            trust_pickle: Loading a .pt runs whatever code is in it, as the hub's user: it is done for
                administrators who say so.
            by: Who sends it; who is signed in, unless the hub's local key is used.
            content: The file: its path, itself opened, its bytes, or its chunks.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds for all of it; None waits.
        """
        header = models_pb2.ImportModelHeader(
            project=project,
            file_name=file_name,
            digest=digest,
            classes=classes,
            mean=mean,
            std=std,
            resize=resize,
            size_px=size_px,
            dataset=dataset,
            trust_pickle=trust_pickle,
            by=by,
            request_id=request_id or uuid.uuid4().hex,
        )
        return await self._calls.upload(
            "/milonga.v1.ModelService/ImportModel",
            models_pb2.ImportModelRequest(header=header),
            lambda chunk: models_pb2.ImportModelRequest(chunk=chunk),
            content,
            models_pb2.ImportModelResponse,
            timeout,
        )

    def download_network(
        self, name: str, *, device_type: str = "", timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Sends the network of a device type as a plain ONNX file. Scope: models:read.

        Args:
            name: models/{model}/versions/{number}
            device_type: May be empty where all device types have one network.
            timeout: Seconds for all of it; None waits.
        """
        request = models_pb2.DownloadNetworkRequest(name=name, device_type=device_type)
        return self._calls.download(
            "/milonga.v1.ModelService/DownloadNetwork", request, models_pb2.DownloadNetworkResponse, timeout
        )


class AsyncProjects:
    """What a user wants: task, data set, limits, selector and policies."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def apply_project(
        self,
        name: str,
        *,
        spec: projects_pb2.ProjectSpec,
        start_run: bool = False,
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> projects_pb2.ApplyProjectResponse:
        """Creates the project or changes its spec; equal specs change nothing. Scope: projects:write.

        Args:
            spec: Required.
            start_run: Start a run if the project is new or its spec changed.
            dry_run: Say what would change, and change nothing.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ApplyProjectRequest(
            name=name, spec=spec, start_run=start_run, dry_run=dry_run, request_id=request_id or uuid.uuid4().hex
        )
        return await self._calls.unary(
            "/milonga.v1.ProjectService/ApplyProject", request, projects_pb2.ApplyProjectResponse, timeout
        )

    async def get_project(self, name: str, *, timeout: float | None = None) -> projects_pb2.Project:
        """A project with its spec as it is now. Scope: projects:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.GetProjectRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.ProjectService/GetProject", request, projects_pb2.GetProjectResponse, timeout
        )
        return answer.project

    async def get_project_usage(self, name: str, *, timeout: float | None = None) -> projects_pb2.ProjectUsage:
        """What a project takes of the hub now, and what it may. Scope: projects:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.GetProjectUsageRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.ProjectService/GetProjectUsage", request, projects_pb2.GetProjectUsageResponse, timeout
        )
        return answer.project_usage

    async def get_due_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.DueRun:
        """The run that the project's policy calls for and that has not begun, with what holds it back. Scope:
        projects:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.GetDueRunRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.ProjectService/GetDueRun", request, projects_pb2.GetDueRunResponse, timeout
        )
        return answer.due_run

    def list_projects(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[projects_pb2.Project]:
        """All projects, by name. Scope: projects:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ListProjectsRequest(page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.ProjectService/ListProjects",
            request,
            projects_pb2.ListProjectsResponse,
            lambda page: page.projects,
            timeout,
        )


class AsyncRollouts:
    """A model version on its way to the devices of a selector, wave by wave."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create_rollout(
        self,
        model_version: str,
        *,
        selector: str = "",
        spec: projects_pb2.RolloutSpec | None = None,
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> rollouts_pb2.Rollout:
        """Sends a version to devices, wave by wave. The same `request_id` gives the same rollout again. Scope:
        rollouts:write.

        Args:
            selector: Empty takes the project's.
            dry_run: Say what would happen, and do nothing.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.CreateRolloutRequest(
            model_version=model_version,
            selector=selector,
            spec=spec,
            dry_run=dry_run,
            request_id=request_id or uuid.uuid4().hex,
        )
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/CreateRollout", request, rollouts_pb2.CreateRolloutResponse, timeout
        )
        return answer.rollout

    async def upgrade_agents(
        self,
        selector: str = "",
        *,
        spec: projects_pb2.RolloutSpec | None = None,
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> rollouts_pb2.Rollout:
        """Lets devices take the hub's own agent, some at a time: a rollout as those of models are. The same
        `request_id` gives the same rollout again. Scope: rollouts:write.

        Args:
            selector: Empty takes all devices.
            spec: What is unset in it: one wave, all at once, no failure allowed, and none waited for that is off
                line for ten minutes.
            dry_run: Say what would happen, and do nothing.
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.UpgradeAgentsRequest(
            selector=selector, spec=spec, dry_run=dry_run, request_id=request_id or uuid.uuid4().hex
        )
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/UpgradeAgents", request, rollouts_pb2.UpgradeAgentsResponse, timeout
        )
        return answer.rollout

    async def get_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """One rollout with its waves and devices. Scope: rollouts:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.GetRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/GetRollout", request, rollouts_pb2.GetRolloutResponse, timeout
        )
        return answer.rollout

    def list_rollouts(
        self, project: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[rollouts_pb2.Rollout]:
        """Rollouts, the newest first. Scope: rollouts:read.

        Args:
            project: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.ListRolloutsRequest(project=project, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.RolloutService/ListRollouts",
            request,
            rollouts_pb2.ListRolloutsResponse,
            lambda page: page.rollouts,
            timeout,
        )

    async def pause_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Lets no more devices begin until ResumeRollout. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.PauseRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/PauseRollout", request, rollouts_pb2.PauseRolloutResponse, timeout
        )
        return answer.rollout

    async def resume_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Goes on with a rollout that was paused, by a person or by failures. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.ResumeRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/ResumeRollout", request, rollouts_pb2.ResumeRolloutResponse, timeout
        )
        return answer.rollout

    async def approve_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Lets a rollout begin that waits for a person. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.ApproveRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/ApproveRollout", request, rollouts_pb2.ApproveRolloutResponse, timeout
        )
        return answer.rollout

    async def retry_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Lets the devices that failed try again, and no others. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.RetryRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/RetryRollout", request, rollouts_pb2.RetryRolloutResponse, timeout
        )
        return answer.rollout

    async def abort_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Stops for good; devices that have not been reached keep what they have. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.AbortRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/AbortRollout", request, rollouts_pb2.AbortRolloutResponse, timeout
        )
        return answer.rollout

    async def roll_back_rollout(self, id: str, *, timeout: float | None = None) -> rollouts_pb2.Rollout:
        """Ends the newest rollout of a project, and gives the devices that have its version the one before. Returns
        the rollout that does so. Scope: rollouts:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = rollouts_pb2.RollBackRolloutRequest(id=id)
        answer = await self._calls.unary(
            "/milonga.v1.RolloutService/RollBackRollout", request, rollouts_pb2.RollBackRolloutResponse, timeout
        )
        return answer.rollout

    def watch_rollout(self, id: str) -> AsyncIterator[rollouts_pb2.Rollout]:
        """Sends the rollout now and after every change, until it has ended. Scope: rollouts:read."""
        request = rollouts_pb2.WatchRolloutRequest(id=id)
        return self._calls.watch(
            "/milonga.v1.RolloutService/WatchRollout",
            request,
            rollouts_pb2.WatchRolloutResponse,
            lambda news: news.rollout,
        )


class AsyncRuns:
    """Passes of the loop for a project: prepare, train, profile, search, build, compare, roll out."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def start_run(
        self, project: str, *, reason: str = "", request_id: str = "", timeout: float | None = None
    ) -> projects_pb2.Run:
        """Queues a run with the project's present spec. The same `request_id` gives the same run again. Scope:
        runs:write.

        Args:
            request_id: The same one makes a repeat harmless; a new one where left out.
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.StartRunRequest(
            project=project, reason=reason, request_id=request_id or uuid.uuid4().hex
        )
        answer = await self._calls.unary(
            "/milonga.v1.RunService/StartRun", request, projects_pb2.StartRunResponse, timeout
        )
        return answer.run

    async def get_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.Run:
        """One run with its stages, figures and outcome. Scope: runs:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.GetRunRequest(name=name)
        answer = await self._calls.unary("/milonga.v1.RunService/GetRun", request, projects_pb2.GetRunResponse, timeout)
        return answer.run

    def list_runs(
        self, project: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[projects_pb2.Run]:
        """Runs, the newest first. Scope: runs:read.

        Args:
            project: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ListRunsRequest(project=project, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.RunService/ListRuns", request, projects_pb2.ListRunsResponse, lambda page: page.runs, timeout
        )

    async def cancel_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.Run:
        """Ends a run; what its stages have kept stays for ResumeRun. Scope: runs:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.CancelRunRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.RunService/CancelRun", request, projects_pb2.CancelRunResponse, timeout
        )
        return answer.run

    async def resume_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.Run:
        """Goes on with a failed or cancelled run from the stage where it ended. Scope: runs:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ResumeRunRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.RunService/ResumeRun", request, projects_pb2.ResumeRunResponse, timeout
        )
        return answer.run

    async def approve_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.Run:
        """Lets a run begin that a policy started and that waits for a person. Scope: runs:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ApproveRunRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.RunService/ApproveRun", request, projects_pb2.ApproveRunResponse, timeout
        )
        return answer.run

    async def refuse_run(self, name: str, *, timeout: float | None = None) -> projects_pb2.Run:
        """Ends a run that waits for a person. Scope: runs:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.RefuseRunRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.RunService/RefuseRun", request, projects_pb2.RefuseRunResponse, timeout
        )
        return answer.run

    def watch_run(self, name: str) -> AsyncIterator[projects_pb2.Run]:
        """Sends the run now and after every change, until it ends. Scope: runs:read."""
        request = projects_pb2.WatchRunRequest(name=name)
        return self._calls.watch(
            "/milonga.v1.RunService/WatchRun", request, projects_pb2.WatchRunResponse, lambda news: news.run
        )

    def download_run(self, name: str, *, timeout: float | None = None) -> AsyncIterator[bytes]:
        """Sends as a zip file what the run decided and what devices measured for it: its jobs can be done with that
        and its data set's version where there are no devices (milonga export kfp). Scope: runs:read.

        Args:
            name: projects/{project}/runs/{run}
            timeout: Seconds for all of it; None waits.
        """
        request = projects_pb2.DownloadRunRequest(name=name)
        return self._calls.download(
            "/milonga.v1.RunService/DownloadRun", request, projects_pb2.DownloadRunResponse, timeout
        )

    def list_candidates(
        self, run: str, *, device_type: str = "", page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[projects_pb2.Candidate]:
        """Candidates that the search found, with predicted and measured figures. Scope: runs:read.

        Args:
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = projects_pb2.ListCandidatesRequest(run=run, device_type=device_type, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.RunService/ListCandidates",
            request,
            projects_pb2.ListCandidatesResponse,
            lambda page: page.candidates,
            timeout,
        )


class AsyncTelemetry:
    """Drift and device telemetry, for people and programs."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    def query_telemetry(
        self,
        device: str = "",
        *,
        project: str = "",
        since: datetime | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[telemetry_pb2.TelemetryWindow]:
        """What models did on devices, window by window, the last received first. Scope: telemetry:read.

        Args:
            device: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = telemetry_pb2.QueryTelemetryRequest(
            device=device, project=project, since=timestamp(since), page_size=page_size
        )
        return self._calls.pages(
            "/milonga.v1.TelemetryService/QueryTelemetry",
            request,
            telemetry_pb2.QueryTelemetryResponse,
            lambda page: page.windows,
            timeout,
        )

    def list_drift_events(
        self, project: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[telemetry_pb2.DriftEvent]:
        """Where telemetry left what it is held against, the newest first. Scope: telemetry:read.

        Args:
            project: Empty for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = telemetry_pb2.ListDriftEventsRequest(project=project, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.TelemetryService/ListDriftEvents",
            request,
            telemetry_pb2.ListDriftEventsResponse,
            lambda page: page.drift_events,
            timeout,
        )

    async def estimate_accuracy(
        self, project: str, *, timeout: float | None = None
    ) -> telemetry_pb2.EstimateAccuracyResponse:
        """What share of a project's answers is right, without labels. Scope: telemetry:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = telemetry_pb2.EstimateAccuracyRequest(project=project)
        return await self._calls.unary(
            "/milonga.v1.TelemetryService/EstimateAccuracy", request, telemetry_pb2.EstimateAccuracyResponse, timeout
        )

    async def get_refused_telemetry(
        self, device: str, *, timeout: float | None = None
    ) -> telemetry_pb2.RefusedTelemetry:
        """How many messages of a device were not taken since the hub started, and why the last of them. Scope:
        telemetry:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = telemetry_pb2.GetRefusedTelemetryRequest(device=device)
        answer = await self._calls.unary(
            "/milonga.v1.TelemetryService/GetRefusedTelemetry",
            request,
            telemetry_pb2.GetRefusedTelemetryResponse,
            timeout,
        )
        return answer.refused_telemetry

    def watch_telemetry(
        self, device: str, *, since: datetime | None = None
    ) -> AsyncIterator[telemetry_pb2.TelemetryWindow]:
        """Sends each window of a device as it is stored, beginning with the newest that is there, or with all since
        a time. Scope: telemetry:read.

        Args:
            since: Begin with all windows that started at this time or later, in the order in which they came; unset
                begins with the newest.
        """
        request = telemetry_pb2.WatchTelemetryRequest(device=device, since=timestamp(since))
        return self._calls.watch(
            "/milonga.v1.TelemetryService/WatchTelemetry",
            request,
            telemetry_pb2.WatchTelemetryResponse,
            lambda news: news.window,
        )


class AsyncWebhooks:
    """Addresses of programs that are told what happens: a signed POST of a CloudEvent for each event, tried again until it arrives."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    def list_webhooks(self, *, timeout: float | None = None) -> AsyncIterator[webhooks_pb2.Webhook]:
        """Who is told of what. Scope: webhooks:read.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.ListWebhooksRequest()
        return self._calls.rows(
            "/milonga.v1.WebhookService/ListWebhooks",
            request,
            webhooks_pb2.ListWebhooksResponse,
            lambda page: page.webhooks,
            timeout,
        )

    async def apply_webhook(
        self,
        name: str,
        *,
        url: str,
        secret: str = "",
        events: Sequence[str] = (),
        project: str = "",
        give_up_after_seconds: float | None = None,
        timeout: float | None = None,
    ) -> webhooks_pb2.ApplyWebhookResponse:
        """Creates or changes a webhook, which hears of what happens from then on. Scope: webhooks:write.

        Args:
            url: Required.
            secret: Signs what is sent. Left out: the one that the hub has already for this address, or a new one.
            events: None is all.
            project: Empty: of all projects, and of what belongs to none.
            give_up_after_seconds: Unset: a day.
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.ApplyWebhookRequest(
            name=name,
            url=url,
            secret=secret,
            events=events,
            project=project,
            give_up_after_seconds=give_up_after_seconds,
        )
        return await self._calls.unary(
            "/milonga.v1.WebhookService/ApplyWebhook", request, webhooks_pb2.ApplyWebhookResponse, timeout
        )

    async def delete_webhook(self, name: str, *, timeout: float | None = None) -> None:
        """Tells it nothing more; what waits for it is given up. Scope: webhooks:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.DeleteWebhookRequest(name=name)
        await self._calls.unary(
            "/milonga.v1.WebhookService/DeleteWebhook", request, webhooks_pb2.DeleteWebhookResponse, timeout
        )

    async def test_webhook(self, name: str, *, timeout: float | None = None) -> str:
        """Sends a test event now. Scope: webhooks:write.

        Args:
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.TestWebhookRequest(name=name)
        answer = await self._calls.unary(
            "/milonga.v1.WebhookService/TestWebhook", request, webhooks_pb2.TestWebhookResponse, timeout
        )
        return answer.answer

    def redeliver_webhook(
        self, name: str, *, delivery: str = "", timeout: float | None = None
    ) -> AsyncIterator[webhooks_pb2.WebhookDelivery]:
        """Sends once more what was given up: the oldest first, with the ids that it had. What fails again is given
        up at once. Scope: webhooks:write.

        Args:
            delivery: Of one message; empty for all that never arrived.
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.RedeliverWebhookRequest(name=name, delivery=delivery)
        return self._calls.rows(
            "/milonga.v1.WebhookService/RedeliverWebhook",
            request,
            webhooks_pb2.RedeliverWebhookResponse,
            lambda page: page.deliveries,
            timeout,
        )

    def list_webhook_deliveries(
        self,
        webhook: str = "",
        *,
        state: alerts_pb2.DeliveryState.ValueType = alerts_pb2.DELIVERY_STATE_UNSPECIFIED,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[webhooks_pb2.WebhookDelivery]:
        """What was sent or is to be sent, the newest first; kept for 90 days. Scope: webhooks:read.

        Args:
            webhook: Empty for all.
            state: Unspecified for all.
            page_size: Rows to ask for at a time, 0 for the hub's choice; all are given in the end.
            timeout: Seconds; None takes the client's.
        """
        request = webhooks_pb2.ListWebhookDeliveriesRequest(webhook=webhook, state=state, page_size=page_size)
        return self._calls.pages(
            "/milonga.v1.WebhookService/ListWebhookDeliveries",
            request,
            webhooks_pb2.ListWebhookDeliveriesResponse,
            lambda page: page.deliveries,
            timeout,
        )


class AsyncServices:
    """All services, by the names of what they are about."""

    def __init__(self, calls: AsyncCalls) -> None:
        self.accounts = AsyncAccounts(calls)
        self.alerts = AsyncAlerts(calls)
        self.builds = AsyncBuilds(calls)
        self.datasets = AsyncDatasets(calls)
        self.devices = AsyncDevices(calls)
        self.hubs = AsyncHubs(calls)
        self.labelling = AsyncLabelling(calls)
        self.models = AsyncModels(calls)
        self.projects = AsyncProjects(calls)
        self.rollouts = AsyncRollouts(calls)
        self.runs = AsyncRuns(calls)
        self.telemetry = AsyncTelemetry(calls)
        self.webhooks = AsyncWebhooks(calls)
