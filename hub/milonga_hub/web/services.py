"""What pages and REST need of a hub: its services by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from milonga_hub.accounts.service import AccountService
from milonga_hub.alerts.service import AlertService
from milonga_hub.blobs.watching import BlobWatch
from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.service import DatasetService
from milonga_hub.devices.service import DeviceService
from milonga_hub.events import EventBus
from milonga_hub.hubs.service import Hubs
from milonga_hub.labelling.service import LabellingService
from milonga_hub.models.imports import ModelImports
from milonga_hub.models.service import ModelService
from milonga_hub.projects.service import ProjectService
from milonga_hub.quotas.service import QuotaService
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.service import RunService
from milonga_hub.runs.triggers import Triggers
from milonga_hub.settings import Settings
from milonga_hub.telemetry.service import TelemetryService
from milonga_hub.webhooks.service import WebhookService


class HubServices(Protocol):
    settings: Settings
    events: EventBus
    devices: DeviceService
    datasets: DatasetService
    projects: ProjectService
    runs: RunService
    triggers: Triggers
    models: ModelService
    imports: ModelImports
    builds: BuildService
    rollouts: RolloutService
    telemetry: TelemetryService
    alerts: AlertService
    labelling: LabellingService
    accounts: AccountService
    blob_watch: BlobWatch
    quotas: QuotaService
    webhooks: WebhookService
    hubs: Hubs
    #: What no other hub has that shares the data folder.
    own_folder: Path

    @property
    def grpc_port(self) -> int:
        """Where agents connect, as the hub listens now."""
