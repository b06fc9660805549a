"""Whose an operation is: how the door finds the project that a call is about, for keys that are limited to projects.

A method or route that is not here is refused to such keys: devices, alert rules and accounts belong to no project.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a value in a request is, or who looks instead of the door."""

    PROJECT = "PROJECT"
    # A resource name: projects/{project}/..., or models/{project}/..., for a model has the name of its project.
    NAME = "NAME"
    ROLLOUT = "ROLLOUT"
    ALERT = "ALERT"
    DATASET = "DATASET"
    # It changes the data set, which no other project may use then.
    DATASET_CHANGED = "DATASET_CHANGED"
    # The service lists what `callers.seen_projects` says.
    LISTED = "LISTED"
    # The door cannot read it there: its handler calls `callers.need_project` or `need_dataset`.
    LOOKED_AT = "LOOKED_AT"
    # About the caller itself.
    OWN = "OWN"


@dataclass(frozen=True)
class Whose:
    """Which field of the request, or part of the path, says what it is about."""

    kind: Kind
    field: str = ""


_LISTED, _LOOKED_AT, _OWN = Whose(Kind.LISTED), Whose(Kind.LOOKED_AT), Whose(Kind.OWN)
_PROJECT, _NAME = Whose(Kind.PROJECT, "project"), Whose(Kind.NAME, "name")
_ROLLOUT, _ALERT = Whose(Kind.ROLLOUT, "id"), Whose(Kind.ALERT, "id")
_RESOURCE = re.compile(r"(?:projects|models)/([^/]+)/.+")


def _methods(service: str, found: Mapping[Whose, str]) -> dict[str, Whose]:
    return {f"/milonga.v1.{service}/{name}": whose for whose, names in found.items() for name in names.split()}


GRPC: Mapping[str, Whose] = {
    **_methods("AccountService", {_OWN: "GetCaller DeleteApiKey"}),
    **_methods(
        "DatasetService",
        {
            _LISTED: "ListDatasets",
            Whose(Kind.DATASET, "name"): "GetDataset",
            Whose(Kind.DATASET, "dataset"): "ListDatasetVersions",
            _LOOKED_AT: "ImportDataset DownloadDatasetVersion",
        },
    ),
    **_methods(
        "ProjectService",
        {_LISTED: "ListProjects", Whose(Kind.PROJECT, "name"): "GetProject GetProjectUsage GetDueRun ApplyProject"},
    ),
    **_methods(
        "RunService",
        {
            _LISTED: "ListRuns",
            _PROJECT: "StartRun",
            _NAME: "GetRun WatchRun DownloadRun CancelRun ResumeRun ApproveRun RefuseRun",
            Whose(Kind.NAME, "run"): "ListCandidates",
        },
    ),
    **_methods(
        "ModelService",
        {
            _LISTED: "ListModels",
            # A model has the name of its project.
            Whose(Kind.PROJECT, "model"): "ListModelVersions",
            _NAME: "GetModelVersion DownloadCheckpoint DownloadNetwork",
            _LOOKED_AT: "ImportModel",
        },
    ),
    **_methods(
        "BuildService",
        {
            _LISTED: "ListBuilds",
            _NAME: "GetBuild WatchBuild GetBuildLog GetBuildManifest DownloadBuild CancelBuild OverrideBuild ChooseBuild",
            Whose(Kind.NAME, "model_version"): "StartBuild",
        },
    ),
    **_methods(
        "RolloutService",
        {
            _LISTED: "ListRollouts",
            _ROLLOUT: "GetRollout WatchRollout ApproveRollout PauseRollout ResumeRollout RetryRollout AbortRollout RollBackRollout",
            Whose(Kind.NAME, "model_version"): "CreateRollout",
        },
    ),
    **_methods("TelemetryService", {_LISTED: "QueryTelemetry ListDriftEvents", _PROJECT: "EstimateAccuracy"}),
    **_methods(
        "LabellingService",
        {
            _PROJECT: "ListSamples GetLabelling AddLabelledSamples DiscardSamples",
            _NAME: "GetSample GetSamplePicture LabelSample SkipSample UndoSample",
        },
    ),
    **_methods("AlertService", {_LISTED: "ListAlerts", _ALERT: "GetAlert AcknowledgeAlert"}),
}

# Routes of REST whose path does not name what they are about.
_ROUTES: Mapping[str, Whose] = {
    "GET /api/v1/me": _OWN,
    "DELETE /api/v1/api_keys/{id}": _OWN,
    **{
        f"GET /api/v1/{name}": _LISTED
        for name in (
            "alerts",
            "builds",
            "datasets",
            "drift_events",
            "models",
            "projects",
            "rollouts",
            "runs",
            "telemetry",
        )
    },
    "GET /api/v1/telemetry/accuracy": _LOOKED_AT,
    "POST /api/v1/rollouts": _LOOKED_AT,
}
_PARTS = {
    "{project}": Whose(Kind.PROJECT, "project"),
    "{model}": Whose(Kind.PROJECT, "model"),
    "{rollout}": Whose(Kind.ROLLOUT, "rollout"),
    "{alert}": Whose(Kind.ALERT, "alert"),
    "{dataset}": Whose(Kind.DATASET, "dataset"),
}


def whose(operation: str) -> Whose | None:
    """Return how to find the project of an operation, None for one that keys of projects are refused."""
    if operation.startswith("/"):
        return GRPC.get(operation)
    method, _, path = operation.partition(" ")
    if operation in _ROUTES or not path.startswith("/api/v1/"):
        return _ROUTES.get(operation)
    # After the first word, which says what kind of thing it is: /projects/{project}/runs.
    part = (path.split("/")[4:5] or [""])[0].partition(":")[0]
    found = _PARTS.get(part)
    if found is not None and found.kind is Kind.DATASET and method != "GET":
        return Whose(Kind.DATASET_CHANGED, "dataset")
    return found


def project_of_name(name: str) -> str:
    """Return the project in the name of a resource, "" where there is none."""
    found = _RESOURCE.fullmatch(name)
    return found[1] if found else ""
