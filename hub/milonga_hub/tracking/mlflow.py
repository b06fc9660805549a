"""Records as runs and registered model versions of MLflow, through its own client.

The client is imported with the first record, in the thread that writes it: that takes seconds, and the hub starts without.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.tracking.errors import Away, Refused
from milonga_hub.tracking.rules import HUB_TAG, RUN_TAG, Point, Record, Registered

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The digest of what was written last; a run that has the right one is left alone, after a restart too.
_DIGEST_TAG = "milonga.written"
_URL_TAG = "milonga.url"
# What a server takes at once: docs of MLflow's REST API, runs/log-batch.
_PARAMS_AT_ONCE = _TAGS_AT_ONCE = 100
_POINTS_AT_ONCE = 1000
# What the client does where nobody has said otherwise. It would try for minutes by itself, report its use to its makers, and print
# an address with every run that ends.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def store(uri: str) -> MlflowStore:
    """Return the store at this URI. Raises InvalidInput for what is no URI of one, FailedPrecondition without the client."""
    parts = urlsplit(uri)
    if "://" not in uri or parts.scheme == "file":
        raise InvalidInput(f"--mlflow {uri!r} is not the URI of a tracking server; write http://mlflow:5000")
    if parts.scheme in ("http", "https") and parts.username is not None:
        raise InvalidInput("--mlflow takes no password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if find_spec("mlflow") is None:
        raise FailedPrecondition("--mlflow needs a package that is not installed: pip install 'milonga-hub[mlflow]'")
    return MlflowStore(uri)


@dataclass
class _Known:
    """A run of MLflow, and what it has been told."""

    id: str
    artifact_uri: str
    status: str
    digest: str
    # Names of those that records write.
    tags: set[str]
    deleted: bool = False
    points: set[tuple[str, int, float]] = field(default_factory=set)
    artifacts: dict[str, str] = field(default_factory=dict)


class MlflowStore:
    """Used by one thread at a time."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        # Runs that have not ended; others are found again where there is something to tell of them.
        self._known: dict[str, _Known] = {}

    def write(self, record: Record) -> None:
        """Make it so that MLflow says what the record does; what it says already is not told again."""
        with _told(self._uri):
            known = self._known.get(record.run) or self._find(record) or self._create(record)
            self._known[record.run] = known
            # Whoever deleted the run in MLflow does not want it back.
            if known.digest != record.digest and not known.deleted:
                try:
                    self._tell(known, record)
                except BaseException:
                    # Whatever is wrong with what is known: look again.
                    del self._known[record.run]
                    raise
            if record.ended_ms is not None:
                del self._known[record.run]

    @property
    def _mlflow(self) -> Any:
        if self._client is None:
            for name, value in _CLIENT.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._client = MlflowClient(self._uri, self._uri)
        return self._client

    def _find(self, record: Record) -> _Known | None:
        wanted = f"tags.`{RUN_TAG}` = '{record.run}' and tags.`{HUB_TAG}` = '{record.hub}'"
        # 3: deleted ones, too.
        found = self._mlflow.search_runs([self._experiment(record.experiment)], wanted, run_view_type=3, max_results=1)
        if not found:
            return None
        run = found[0]
        known = _known(run)
        if known.digest != record.digest and not known.deleted:
            for key in run.data.metrics:
                history = self._mlflow.get_metric_history(known.id, key)
                known.points |= {(each.key, each.step, each.value) for each in history}
        return known

    def _create(self, record: Record) -> _Known:
        # With its tags in the same request: if the answer is lost, the run is found by them.
        tags = {RUN_TAG: record.run, HUB_TAG: record.hub}
        experiment = self._experiment(record.experiment)
        return _known(self._mlflow.create_run(experiment, record.started_ms, tags, record.name))

    def _experiment(self, name: str) -> str:
        found = self._mlflow.get_experiment_by_name(name)
        if found is None:
            return str(self._mlflow.create_experiment(name))
        if found.lifecycle_stage == "deleted":
            raise Refused(
                f"the experiment {name} was deleted in MLflow; restore it: mlflow experiments restore -x"
                f" {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _tell(self, known: _Known, record: Record) -> None:
        self._tell_figures(known, record)
        if record.ended_ms is not None:
            self._mlflow.set_terminated(known.id, record.status, record.ended_ms)
        elif known.status != record.status:
            self._mlflow.update_run(known.id, status=record.status)
        known.status = record.status
        if record.version is not None:
            self._register(known, record.version)
        for path, text in record.artifacts.items():
            self._keep(known, record, path, text)
        self._mlflow.set_tag(known.id, _DIGEST_TAG, record.digest)
        known.digest = record.digest

    def _tell_figures(self, known: _Known, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(key, value) for key, value in record.params.items()] if not known.digest else []
        tags = [RunTag(key, value) for key, value in {**record.tags, _URL_TAG: record.url}.items()]
        for some in _chunks(params, _PARAMS_AT_ONCE):
            self._mlflow.log_batch(known.id, params=some)
        for some in _chunks(tags, _TAGS_AT_ONCE):
            self._mlflow.log_batch(known.id, tags=some)
        # The error of a run that went on, say.
        for name in known.tags - {*record.tags}:
            self._mlflow.delete_tag(known.id, name)
        known.tags = {*record.tags}
        new: list[Point] = [each for each in record.points if (each.key, each.step, each.value) not in known.points]
        for points in _chunks(new, _POINTS_AT_ONCE):
            metrics = [Metric(each.key, each.value, each.at_ms, each.step) for each in points]
            self._mlflow.log_batch(known.id, metrics=metrics)
            known.points |= {(each.key, each.step, each.value) for each in points}

    def _register(self, known: _Known, version: Registered) -> None:
        name = version.model
        found = self._mlflow.search_model_versions(f"name = '{name}' and run_id = '{known.id}'")
        if not found:
            if not self._mlflow.search_registered_models(f"name = '{name}'"):
                self._mlflow.create_registered_model(name)
            self._mlflow.create_model_version(
                name, known.artifact_uri, known.id, dict(version.tags), await_creation_for=0
            )
            return
        for key, value in version.tags.items():
            if found[0].tags.get(key) != value:
                self._mlflow.set_model_version_tag(name, found[0].version, key, value)

    def _keep(self, known: _Known, record: Record, path: str, text: str) -> None:
        """Keep an artifact where it changed. One that is refused, for want of a disk or of a package, holds up nothing else."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        if known.artifacts.get(path) == digest:
            return
        try:
            with _told(self._uri):
                self._mlflow.log_text(known.id, text, path)
        except Refused as error:
            _log.warning("%s: its artifact %s is left out: %s", record.run, path, error)
        known.artifacts[path] = digest


def _known(run: Any) -> _Known:
    tags = run.data.tags
    return _Known(
        id=run.info.run_id,
        artifact_uri=run.info.artifact_uri,
        status=run.info.status,
        digest=tags.get(_DIGEST_TAG, ""),
        tags={name for name in tags if name.startswith("milonga.")} - {_DIGEST_TAG, _URL_TAG},
        deleted=run.info.lifecycle_stage == "deleted",
    )


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn what the client raises into Away or Refused, by the one thing that matters: whether another try may help."""
    try:
        yield
    except (Away, Refused):
        raise
    except ImportError as error:
        raise Refused(f"{error}; install it next to the hub") from error
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        if isinstance(error, MlflowException):
            # 408 and 429: later. 401 and 403: as soon as somebody has put the password right.
            status = error.get_http_status_code()
            final = 400 <= status < 500 and status not in (401, 403, 408, 429)
        elif isinstance(error, RequestException | ConnectionError | TimeoutError):
            final = False
        elif isinstance(error, OSError):
            final = True
        else:
            raise
        words = f"MLflow at {urlsplit(uri).hostname or urlsplit(uri).scheme}: {_words(error)}"
        raise (Refused if final else Away)(words) from error


def _words(error: Exception) -> str:
    from requests.exceptions import RequestException

    # What the client says of a request that got no answer is long, and says no more.
    for each in (error, error.__cause__, error.__context__):
        if isinstance(each, RequestException):
            return f"no answer ({type(each).__name__})"
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
