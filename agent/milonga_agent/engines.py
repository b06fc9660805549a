"""Which engine a bundle runs in on this device: builds what only the device can, and falls back where that fails."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milonga.candidates import Candidate, DeviceBuild, Probe, candidates

from milonga_agent.device_builds import Outcome, Place, Record, Records, key_of
from milonga_agent.errors import BadBundle
from milonga_agent.files import sync_folder, write_atomically
from milonga_agent.hardware import gpu
from milonga_agent.limits import Limits
from milonga_agent.processes import ended_within

_log = logging.getLogger(__name__)

# Builds of this many networks are kept beside those that are in use: going back to one costs no minutes then.
_KEPT_BUILDS = 4
# A build may try several variants; all together get this much more than one.
_SLACK_SECONDS = 60.0
_FINISHED = "built.json"


@dataclass(frozen=True)
class Choice:
    """An engine to serve a bundle with: what to load, and what to hold it to first."""

    target: str
    engine: str
    model: Path
    probe: Probe
    device_build: bool
    # The one that the bundle is for; others are what it falls back to.
    preferred: bool


class Engines:
    """Chooses and builds, in the order of the bundle; `tell` hears what came of every build."""

    def __init__(self, folder: Path, limits: Limits, tell: Callable[[Record], None], root: Path = Path("/")) -> None:
        self._folder, self._limits, self._tell, self._root = folder, limits, tell, root
        self._records = Records(folder / "builds.json")
        # One build at a time: each may take all of the device.
        self._building = asyncio.Lock()

    @property
    def records(self) -> list[Record]:
        """Return what came of all builds of the bundles that are kept."""
        return self._records.all

    async def build(self, digest: str, bundle: Path) -> None:
        """Build until an engine works, unless one that is finished comes first; failures are told, and never raised."""
        manifest = _manifest(bundle)
        for candidate in _candidates(manifest, bundle):
            if candidate.device_build is None or await self._make(digest, bundle, manifest, candidate):
                return

    async def built(self, digest: str, bundle: Path) -> Path | None:
        """Return the first engine's model if the device makes it, None if it is in the bundle. Raises BadBundle where it fails."""
        manifest = _manifest(bundle)
        if "device_build" not in manifest:
            return None
        candidate = _candidates(manifest, bundle)[0]
        model = await self._make(digest, bundle, manifest, candidate)
        if model is None:
            record = self._records.of(digest, candidate.target)
            raise BadBundle(f"{candidate.target}: {record.error if record else 'it was not built'}")
        return model

    def choices(self, digest: str, bundle: Path) -> list[Choice]:
        """Return the engines that may serve the bundle now, the preferred first. Raises BadBundle where there are none."""
        manifest = _manifest(bundle)
        found = []
        for number, one in enumerate(_candidates(manifest, bundle)):
            own = one.device_build is not None
            model = self._usable(digest, manifest, one) if own else bundle / one.model_file
            if model is not None:
                found.append(Choice(one.target, one.engine, model, one.probe, own, preferred=number == 0))
        if not found:
            raise BadBundle("none of the bundle's engines could be built on this device, and it has no finished one")
        return found

    def note(self, digest: str, choice: Choice, error: str = "") -> None:
        """Keep and tell how loading and probing a build of this device went."""
        if error:
            _log.warning("%s does not serve: %s", choice.target, error)
        known = self._records.of(digest, choice.target) if choice.device_build else None
        if known is None:
            return
        state = Outcome.BUILT if error else Outcome.VERIFIED
        if (known.state, known.error) != (state, error):
            self._keep(replace(known, state=state, error=error))

    def collect(self, kept: set[str]) -> None:
        """Forget all bundles but these, and remove builds that were not used for long."""
        self._records.forget_all_but(kept)
        builds = [path for path in self._folder.glob("*") if (path / _FINISHED).exists()]
        by_use = sorted(builds, key=lambda path: (path / _FINISHED).stat().st_mtime, reverse=True)
        for path in by_use[_KEPT_BUILDS + len(kept) :]:
            shutil.rmtree(str(path), ignore_errors=True)

    def _place(self, engine: str) -> Place:
        # Imported where a device builds, which few do: see inventory.py.
        from milonga_agent.inventory import engine_version

        return Place(gpu(self._root), engine_version(engine))

    def _usable(self, digest: str, manifest: dict[str, Any], candidate: Candidate) -> Path | None:
        """Return the model that was built before and is not known to be wrong."""
        record = self._records.of(digest, candidate.target)
        if record is None or record.state is Outcome.FAILED or record.error:
            return None
        return _model(self._folder / key_of(candidate, _digests(manifest), self._place(candidate.engine)))

    async def _make(self, digest: str, bundle: Path, manifest: dict[str, Any], candidate: Candidate) -> Path | None:
        """Return the model of a build that computes what it should, made now or before; None where there is none."""
        place = self._place(candidate.engine)
        folder = self._folder / key_of(candidate, _digests(manifest), place)
        about = Record(digest, candidate.engine, candidate.precision, place.engine_version, place.gpu, Outcome.FAILED)
        async with self._building:
            cached = _finished(folder)
            if cached is None:
                _log.info("building %s for this device", candidate.target)
                began = time.monotonic()
                said = await self._process(folder, bundle, candidate)
                said["seconds"] = round(time.monotonic() - began, 1)
                if "error" not in said and not said["objection"]:
                    write_atomically(folder / _FINISHED, json.dumps(said).encode("utf-8"))
                    sync_folder(self._folder)
            else:
                (folder / _FINISHED).touch()
                said = cached
        record = _record(about, said, cached is not None)
        self._keep(record)
        if record.state is not Outcome.VERIFIED:
            _log.warning("%s: %s", candidate.target, record.error)
            shutil.rmtree(str(folder), ignore_errors=True)
            return None
        return _model(folder)

    async def _process(self, folder: Path, bundle: Path, candidate: Candidate) -> dict[str, Any]:
        made_of = candidate.device_build
        assert made_of is not None
        shutil.rmtree(str(folder), ignore_errors=True)
        (folder / "files").mkdir(parents=True)
        spec = folder / "spec.json"
        write_atomically(spec, json.dumps(self._spec(folder, bundle, candidate, made_of)).encode("utf-8"))
        # What the builder prints is the log of the build; the line on stdout is its answer.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "milonga_agent.building", str(spec), stdout=asyncio.subprocess.PIPE
        )
        try:
            out, _ = await ended_within(process, made_of.max_seconds + _SLACK_SECONDS)
            said: dict[str, Any] = json.loads(out.splitlines()[-1])
        except asyncio.TimeoutError:
            return {"error": f"it was ended after {made_of.max_seconds + _SLACK_SECONDS:g} s"}
        except (ValueError, IndexError):
            return {"error": f"the building process ended with exit code {process.returncode}"}
        return said

    def _spec(self, folder: Path, bundle: Path, candidate: Candidate, made_of: DeviceBuild) -> dict[str, Any]:
        probe, proof = candidate.probe, made_of.proof
        return {
            "engine": candidate.engine,
            "precision": candidate.precision,
            "onnx": str(bundle / made_of.onnx_file),
            "calibration": str(bundle / made_of.calibration_file) if made_of.calibration_file else "",
            "input": str(bundle / probe.input_file),
            "expected": str(bundle / probe.expected_file),
            "max_abs_error": probe.max_abs_error,
            "manifest": str(bundle / "manifest.json"),
            "proof": {
                "input": str(bundle / proof.input_file),
                "decisions": str(bundle / proof.decisions_file),
                "least_agreement": proof.least_agreement,
            }
            if proof
            else None,
            "folder": str(folder / "files"),
            "log": str(self._folder / "last-build.log"),
            "max_seconds": made_of.max_seconds,
            "memory_bytes": self._limits.memory_bytes,
            "threads": self._limits.threads,
        }

    def _keep(self, record: Record) -> None:
        self._records.keep(record)
        self._tell(record)


def _record(about: Record, said: dict[str, Any], cached: bool) -> Record:
    seconds = float(said.get("seconds", 0.0))
    if "error" in said:
        return replace(about, seconds=seconds, error=str(said["error"]))
    state = Outcome.BUILT if said["objection"] else Outcome.VERIFIED
    error, distance = str(said["objection"]), said["max_abs_error"]
    agreed = said.get("agreement")
    return replace(
        about, state=state, seconds=seconds, cached=cached, error=error, max_abs_error=distance, agreement=agreed
    )


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return what was kept of a build that is whole, or None."""
    try:
        said: dict[str, Any] = json.loads((folder / _FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if all((folder / "files" / name).is_file() for name in said["files"]) else None


def _model(folder: Path) -> Path | None:
    said = _finished(folder)
    return None if said is None else folder / "files" / str(said["model_file"])


def _manifest(bundle: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadBundle(f"{bundle / 'manifest.json'} cannot be read: {error}") from error
    return manifest


def _candidates(manifest: dict[str, Any], bundle: Path) -> list[Candidate]:
    try:
        return candidates(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise BadBundle(f"{bundle / 'manifest.json'} is not a manifest that can be served: {error!r}") from error


def _digests(manifest: dict[str, Any]) -> dict[str, str]:
    return {str(file["path"]): str(file["digest"]) for file in manifest["files"]}
