"""Examine a hub on its own machine, running or not: what is well, what is not, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sqlite3
import ssl
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import psutil
from cryptography import x509
from milonga_compiler.environments import usable_engines

from milonga_hub.blobs import places
from milonga_hub.cluster.connection import knock
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, MilongaError
from milonga_hub.install.reach import whereabouts
from milonga_hub.jobs import JobError
from milonga_hub.migrations import running
from milonga_hub.plugged import examined
from milonga_hub.postgres import asked
from milonga_hub.settings import Settings
from milonga_hub.signing.service import SigningService

_SECONDS = 3.0
_LOW_DISK_BYTES, _NO_DISK_BYTES = 5_000_000_000, 500_000_000
# What a small supernet's training takes beside the hub.
_LOW_MEMORY_BYTES = 2_000_000_000
_ENDS_SOON = timedelta(days=30)
_DATABASE = "milonga.db"


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    result: Result
    found: str
    # What to do next; empty where it is well.
    next_step: str = ""


def examine(settings: Settings) -> list[Check]:
    """Look at everything. Nothing is changed, and a hub that runs is not disturbed."""
    folder = settings.data_dir
    checks = [_disk(folder), _memory()]
    # Not by hub.lock: one that was restored has not run yet.
    if not (folder / "authority").exists():
        start = f"start the hub: milonga up --data-dir {folder}; or name its folder with --data-dir"
        return [*checks, Check("hub", Result.FAILED, f"there was never one in {folder}", start), *_work()]
    checks += _running(settings)
    checks += _database(settings)
    checks.append(_blobs(settings))
    checks.append(_authority(folder))
    checks += _signing(folder)
    checks += _cluster(settings.ray)
    return [*checks, *_work()]


def worst(checks: Sequence[Check]) -> Result:
    """Return the worst result of all."""
    return max((check.result for check in checks), key=list(Result).index, default=Result.OK)


def _disk(folder: Path) -> Check:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not os.access(there, os.W_OK):
        return Check(
            "disk", Result.FAILED, f"{there} cannot be written", "run this as the hub's user, or mend the rights"
        )
    free = shutil.disk_usage(there).free
    found = f"{_size(free)} free at {folder}"
    if free >= _LOW_DISK_BYTES:
        return Check("disk", Result.OK, found)
    result = Result.FAILED if free < _NO_DISK_BYTES else Result.WARNING
    return Check("disk", result, found, "make room: runs, pictures and builds are kept there")


def _memory() -> Check:
    free = psutil.virtual_memory().available
    if free >= _LOW_MEMORY_BYTES:
        return Check("memory", Result.OK, f"{_size(free)} free")
    return Check("memory", Result.WARNING, f"{_size(free)} free", "trainings may run out of it: end other programs")


def _running(settings: Settings) -> Iterator[Check]:
    addresses = whereabouts(settings.data_dir)
    if addresses is None:
        yield Check("hub", Result.WARNING, "does not run", f"start it: milonga up --data-dir {settings.data_dir}")
        return
    yield Check("hub", *_answers(str(addresses["http"]), addresses.get("scheme", "http")))
    for name, key in (("for programs", "grpc"), ("for devices", "device"), ("telemetry", "mqtt")):
        yield _port(name, str(addresses[key]))
    host = str(addresses["device"]).rpartition(":")[0]
    if host in ("127.0.0.1", "::1", "localhost"):
        yield Check(
            "reach", Result.WARNING, f"devices on other machines cannot reach {host}",
            "for a fleet: milonga up --host 0.0.0.0 --server-names NAME",
        )  # fmt: skip


def _answers(address: str, scheme: str) -> tuple[Result, str, str]:
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    # Whether it answers, not whose it is: its certificate is for the name that others know this machine by.
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        asked = f"{scheme}://{host}:{port}/readyz"
        with urllib.request.urlopen(asked, timeout=_SECONDS, context=anybody) as answer:  # noqa: S310  by the hub itself
            answer.read()
    except OSError as error:
        return (
            Result.FAILED,
            f"is said to run, and is not ready at {address}: {error}",
            "look at its log, or start it anew",
        )
    return Result.OK, f"runs, and is ready at {scheme}://{address}", ""


def _port(name: str, address: str) -> Check:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, int(port)), _SECONDS).close()  # noqa: S104
    except OSError as error:
        return Check(
            name, Result.FAILED, f"nobody answers at {address}: {error.strerror or error}", "start the hub anew"
        )
    return Check(name, Result.OK, f"{address} answers")


def _database(settings: Settings) -> Iterator[Check]:
    if settings.database_url:
        yield from _server(settings.database_url)
        return
    path = settings.data_dir / _DATABASE
    revision = None
    try:
        # Read only: a hub that runs goes on.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as database:
            said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        said = str(error)
    if said == "ok":
        yield Check("database", Result.OK, f"whole, {_size(path.stat().st_size)}")
        yield _tables(revision)
        return
    yield Check(
        "database", Result.FAILED, f"{path} is damaged: {said}",
        "stop the hub and restore a backup: milonga restore FILE --data-dir NEW-FOLDER",
    )  # fmt: skip


def _blobs(settings: Settings) -> Check:
    try:
        url = places.settled(settings.data_dir, settings.blobs)
        if not url:
            return Check("blobs", Result.OK, "are in the data folder")
        with places.looking_at(settings.data_dir, url) as stores:
            for _, blobs in stores.named:
                blobs.check()
    except MilongaError as error:
        return Check(
            "blobs", Result.FAILED, str(error), "mend that with the hub's own environment; nothing kept is lost"
        )
    return Check("blobs", Result.OK, f"{places.shown(url)} answers")


def _server(url: str) -> Iterator[Check]:
    """Look at a database that is elsewhere; a server tells by itself where its files are damaged."""
    try:
        told = asked(Database(url).engine)
    except MilongaError as error:
        yield Check("database", Result.FAILED, str(error), "see to the server, or mend MILONGA_DATABASE_URL")
        return
    yield Check("database", Result.OK, f"{told.server}, {_size(told.size_bytes)}")
    yield _tables(told.revision)


def _tables(revision: str | None) -> Check:
    newest = running.newest()
    if revision == newest:
        return Check("tables", Result.OK, f"at revision {revision}, the newest")
    if revision is not None and revision not in running.reached_at(newest):
        newer = "update Milonga, or restore a backup from before the newer one was here"
        return Check("tables", Result.FAILED, f"at revision {revision}, of a newer version of Milonga", newer)
    return Check(
        "tables",
        Result.WARNING,
        f"at revision {revision or 'none'}; the newest is {newest}",
        "start the hub, which brings them up",
    )


def _cluster(address: str) -> Iterator[Check]:
    if not address:
        return
    try:
        knock(address)
    except JobError:
        yield Check("Ray", Result.FAILED, f"nobody answers at {address}", "see on its head that it runs: ray status")
    else:
        yield Check("Ray", Result.OK, f"jobs run on the cluster at {address}")


def _authority(folder: Path) -> Check:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "authority" / "authority.pem").read_bytes())
    except (OSError, ValueError) as error:
        restore = "restore it from a backup: no device believes another one"
        return Check("authority", Result.FAILED, f"cannot be read: {error}", restore)
    return _ending("authority", certificate.not_valid_after_utc, "devices must join again after that: plan for it")


def _signing(folder: Path) -> Iterator[Check]:
    try:
        roles = SigningService(folder / "signing").status()
    except FailedPrecondition as error:
        yield Check("signing", Result.FAILED, str(error), "start the hub, which makes them")
        return
    well = True
    for role in roles:
        name = f"signing: {role.role}"
        if role.missing_signatures:
            well = False
            wait = f"{role.missing_signatures} signatures are missing on what waits"
            yield Check(name, Result.WARNING, wait, "see: milonga keys status")
        elif (
            len(role.here) < role.threshold and role.expires_at is not None and role.expires_at < utc_now() + _ENDS_SOON
        ):
            well = False
            yield _ending(name, role.expires_at, f"its keys are elsewhere: milonga keys renew {role.role}")
    if well:
        yield Check("signing", Result.OK, f"{len(roles)} roles, none of which needs a person")


def _ending(name: str, at: datetime, then: str) -> Check:
    if at <= utc_now():
        return Check(name, Result.FAILED, f"ended {at:%Y-%m-%d}", then)
    soon = at < utc_now() + _ENDS_SOON
    return Check(name, Result.WARNING if soon else Result.OK, f"good until {at:%Y-%m-%d}", then if soon else "")


def _work() -> Iterator[Check]:
    """Look at what trains and builds."""
    if importlib.util.find_spec("torch") is None:
        yield Check(
            "training", Result.FAILED, "torch is not installed", "install the hub again: pip install milonga-hub"
        )
    else:
        yolo = importlib.util.find_spec("ultralytics") is not None
        found = "torch is there" + (
            ", and ultralytics for detectors" if yolo else "; detectors need 'milonga-hub[yolo]'"
        )
        yield Check("training", Result.OK, found)
    engines = usable_engines()
    if not set(engines) - {"reference"}:
        yield Check("engines", Result.FAILED, "none", "add one: milonga-compiler engines")
    else:
        yield Check("engines", Result.OK, f"builds for {', '.join(engines)}; others: milonga-compiler engines")
    yield from _plugins()


def _plugins() -> Iterator[Check]:
    """Load what plug-ins bring to the hub, in a process of its own."""
    for plugin in examined():
        about = f"{plugin.group} {plugin.name} of {plugin.distribution} {plugin.version}"
        if plugin.problem:
            mend = f"update or uninstall {plugin.distribution}; the hub does without what it brings"
            yield Check("plug-in", Result.WARNING, f"{about} is left out: {plugin.problem}", mend)
        else:
            yield Check("plug-in", Result.OK, about)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
