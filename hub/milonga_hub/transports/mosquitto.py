"""mosquitto beside the hub: started and configured by it, started again when it dies, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as paho

from milonga_hub.authority import Authority
from milonga_hub.errors import FailedPrecondition
from milonga_hub.telemetry.endpoint import BrokerEndpoint
from milonga_hub.transports.mosquitto_files import Files, config_text, write_admission, write_identity
from milonga_hub.transports.mqtt import cannot_listen

_log = logging.getLogger(__name__)

# Before 2.0 it read the list of revoked certificates at its start alone.
_OLDEST = (2, 0)
_READY_SECONDS = 10.0
_STOP_SECONDS = 5.0
# The broker of a hub that was killed a moment ago may still be ending.
_LEFT_OVER_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# One that ran this long and died did not die of its configuration.
_STEADY_SECONDS = 60.0
_STAND_IN_LIFETIME = timedelta(minutes=5)
_STAND_IN_SECONDS = 5.0
# Debian puts it where only root's PATH leads.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/usr/bin")


class Certificates(Protocol):
    """What the broker needs of the devices' noun."""

    def revoked(self) -> list[str]: ...

    def unlisted(self) -> list[str]: ...


def installed() -> Path | None:
    """Return mosquitto's program, where it is installed and new enough."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_FOLDERS))
    if found is None:
        return None
    try:
        shown = subprocess.run([found, "-h"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"mosquitto version (\d+)\.(\d+)", shown)
    return Path(found) if version and (int(version[1]), int(version[2])) >= _OLDEST else None


class Mosquitto:
    """`endpoint = await broker.start(host, port)` ... `await broker.stop()`. Devices are told apart by mosquitto itself.

    What it cannot ask the hub it reads from files: a list of revoked certificates, and the topics of each common name.
    """

    name = "mosquitto"

    def __init__(self, program: Path, folder: Path, authority: Authority, certificates: Certificates) -> None:
        self._program = program
        self._files = Files(folder.absolute())
        self._authority = authority
        self._certificates = certificates
        self._client, _ = authority.own_client()
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._address = ("", 0)
        self._unlisted: list[str] = []
        self.restarts = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = ()) -> BrokerEndpoint:
        """Start it, and return where it listens, with the certificate of the hub's own clients. Port 0 takes a free one."""
        self._loop = asyncio.get_running_loop()
        self._address = host, await _free(host, port)
        self._unlisted = await asyncio.to_thread(self._certificates.unlisted)
        await asyncio.to_thread(self._write, names)
        try:
            await self._launch()
        except FailedPrecondition:
            await self.stop()
            raise
        self._watching = asyncio.create_task(self._watch(), name="mosquitto")
        return BrokerEndpoint(*self._address, tls=self._client)

    def _write(self, names: Sequence[str]) -> None:
        write_identity(self._files, self._authority, names)
        write_admission(self._files, self._authority, self._certificates.revoked(), self._unlisted)
        user = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else ""
        self._files.config.write_text(config_text(self._files, *self._address, user), encoding="utf-8")

    async def _launch(self) -> None:
        # The kernel ends it with the hub, however the hub ends.
        with_hub = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        self._process = await asyncio.create_subprocess_exec(
            *with_hub, str(self._program), "-c", str(self._files.config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            # Ctrl-C goes to the hub, which ends its broker last.
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        said: list[str] = []
        self._reading = asyncio.create_task(_pass_on(self._process.stderr, said))
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not await self._answers():
                    if self._process.returncode is not None:
                        await self._reading
                        raise FailedPrecondition(_ended(self._process.returncode, said, self._files.config))
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            words = f"mosquitto did not listen within {_READY_SECONDS:.0f} s; set broker to embedded, or see {self._files.config}"
            raise FailedPrecondition(words) from error

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(*self._address, ssl=self._client)
        except OSError:
            return False
        writer.close()
        return True

    async def _watch(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - began >= _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            _log.error("mosquitto ended (exit code %d); starting it again in %.1f s", code, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            self.restarts += 1
            with contextlib.suppress(FailedPrecondition):  # It is in the log, and the next try follows.
                await self._launch()

    def disconnect(self, device: str) -> None:
        """Refuse the device's certificates, where they are revoked, and end its connection. May be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_ending, device)

    def _begin_ending(self, device: str) -> None:
        task = asyncio.ensure_future(self._end(device))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, device: str) -> None:
        earlier = device in self._unlisted
        if earlier:
            self._unlisted.remove(device)
        revoked = await asyncio.to_thread(self._certificates.revoked)
        write_admission(self._files, self._authority, revoked, self._unlisted)
        process = self._process
        if process is None or process.returncode is not None:
            return  # It reads the files when it starts again.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
        _log.info("MQTT: disconnecting %s", device)
        if not await asyncio.to_thread(self._take_over, device, earlier):
            _log.warning("MQTT: could not end the connection of %s; its certificate is refused from now on", device)

    def _take_over(self, device: str, earlier: bool) -> bool:
        """Take the device's session by connecting in its name: mosquitto ends the older of two connections."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=device)
        client.tls_set_context(self._authority.stand_in(device, _STAND_IN_LIFETIME, earlier=earlier))
        try:
            client.connect(*self._address)
            ends = time.monotonic() + _STAND_IN_SECONDS
            while not client.is_connected() and time.monotonic() < ends:
                if client.loop(0.1) != paho.MQTT_ERR_SUCCESS:
                    break
            taken = bool(client.is_connected())
            client.disconnect()
        except OSError:
            return False
        return taken

    async def stop(self) -> None:
        """End it. Nothing is lost: what was not acknowledged is sent again."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        self._files.key.unlink(missing_ok=True)

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None


async def _pass_on(lines: asyncio.StreamReader, said: list[str]) -> None:
    """Put what it says into the hub's log, and keep the last of it."""
    async for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip()
        said[:] = [*said[-4:], line]
        grave = "error" in line.lower() or "failed" in line
        _log.log(logging.WARNING if grave else logging.INFO, "MQTT: mosquitto: %s", line)


async def _free(host: str, port: int) -> int:
    """Return the port, or a free one for 0. Raises FailedPrecondition where another program has it."""
    ends = time.monotonic() + _LEFT_OVER_SECONDS
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > ends:
                raise cannot_listen(error, host, port) from error
        await asyncio.sleep(0.1)


def _bound(host: str, port: int) -> int:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((host, port))
        return int(tried.getsockname()[1])


def _ended(code: int, said: Sequence[str], config: Path) -> str:
    words = "; ".join(said[-2:]) or "it said nothing"
    return f"mosquitto ended at once (exit code {code}): {words}; set broker to embedded, or look into {config}"
