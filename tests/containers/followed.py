"""What a Containerfile says, done in a folder that stands for the image: its lines as Docker would follow them, without Docker."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import ssl
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of this machine: how its name servers and its package index are reached.
_OF_THIS_MACHINE = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
)
_CERTIFICATES = "etc/ssl/certs/of-this-machine.pem"


@dataclass(frozen=True)
class Image:
    """What came of the file: a root folder, who runs in it, and what."""

    root: Path
    user: str
    command: list[str]

    @contextlib.contextmanager
    def running(self, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Run the command as its user, with nothing to write to. What is started is that process itself, and gets the signals."""
        mounts = f"mount --bind {self.root} {self.root} && mount -t proc proc {self.root}/proc"
        script = f"{mounts} && mount -o remount,bind,ro {self.root} && exec {self._entering(command)}"
        process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def _entering(self, command: Sequence[str]) -> str:
        entering = ["env", "-i", f"PATH={_PATH}", "chroot", f"--userspec={self.user}:{self.user}", str(self.root)]
        return shlex.join([*entering, *command])


def follow(containerfile: Path, base: Path, root: Path) -> Image:
    """Return what comes of the Containerfile beside which its files lie, made in `root` of what `base` has."""
    shutil.copytree(base, root, symlinks=True)
    _join(root)
    user, command = "0", list[str]()
    for line in containerfile.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "COPY":
            source, to = rest.split()
            # Owners are root's and modes as they were, as Docker has it.
            shutil.copytree(containerfile.parent / source, root / to.strip("/"))
        elif word == "RUN":
            _run(root, rest)
        elif word == "USER":
            user = rest
        elif word == "CMD":
            command = json.loads(rest)
        elif word not in ("FROM", "EXPOSE", "#"):
            raise NotImplementedError(f"{containerfile} says {line!r}, which cannot be followed here")
    return Image(root, user, command)


def _join(root: Path) -> None:
    """Let what runs in the folder reach the network as this machine does."""
    for name in ("resolv.conf", "hosts", "nsswitch.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    certificates = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if certificates:
        shutil.copy(certificates, root / _CERTIFICATES)
    for name in ("dev", "proc"):
        (root / name).mkdir(exist_ok=True)
    for name in ("null", "urandom"):
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, Path("/dev", name).stat().st_rdev)
        (root / "dev" / name).chmod(0o666)


def _run(root: Path, line: str) -> None:
    known = {name: os.environ[name] for name in _OF_THIS_MACHINE if name in os.environ}
    known |= {"PATH": _PATH, "HOME": "/root"}
    if (root / _CERTIFICATES).exists():
        known["PIP_CERT"] = f"/{_CERTIFICATES}"
    command = ["env", "-i", *(f"{name}={value}" for name, value in known.items())]
    script = (
        f"mount -t proc proc {root}/proc && exec {shlex.join([*command, 'chroot', str(root), '/bin/sh', '-c', line])}"
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"RUN {line} failed:\n{(done.stdout + done.stderr)[-3000:]}"
