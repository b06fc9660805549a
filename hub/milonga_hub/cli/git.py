"""What a git repository holds, for a moment: the fleet's files as they were reviewed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from milonga_hub.cli.failures import Refused

_SECONDS = 300
# With signers named, no other kind of signature counts, such as that of a key which happens to be in somebody's ring.
_NO_OTHER = ("gpg.program", "gpg.openpgp.program", "gpg.x509.program")


@dataclass(frozen=True)
class Checkout:
    """A folder of a repository, the repository's own, and the commit that they are of."""

    folder: Path
    root: Path
    commit: str


@contextmanager
def checkout(url: str, ref: str, path: str, signed: bool, signers: Path | None = None) -> Iterator[Checkout]:
    """Yield the folder `path` of a repository at a branch, tag or commit, "" for its usual branch.

    Raises Refused where there is no such thing, or where `signed` and the commit has no signature that this machine's git trusts.
    `signers` names the keys of SSH that may sign, in place of what git is set up to trust.
    """
    if signers is not None and not signers.is_file():
        raise Refused(f"there is no file {signers} with allowed signers; each of its lines is: NAME ssh-ed25519 KEY")
    if shutil.which("git") is None:
        raise Refused("git is not installed here; install it, or give a file with -f")
    with tempfile.TemporaryDirectory(prefix="milonga-git-") as place:
        folder = Path(place)
        _git(folder, "init", "--quiet")
        # A commit can be fetched as a branch can; nothing of the history comes along.
        _git(folder, "fetch", "--quiet", "--depth", "1", "--", url, ref or "HEAD", what=f"{url} at {ref or 'HEAD'}")
        _git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        if signed or signers is not None:
            _verify(folder, commit, signers)
        wanted = (folder / path).resolve()
        if not wanted.is_relative_to(folder.resolve()) or not wanted.exists():
            raise Refused(f"there is no {path} in {url} at {ref or 'HEAD'}; name the folder with --path")
        yield Checkout(wanted, folder.resolve(), commit)


def _verify(folder: Path, commit: str, signers: Path | None) -> None:
    trusted = (
        [f"gpg.ssh.allowedSignersFile={signers.resolve()}", *(f"{one}=false" for one in _NO_OTHER)] if signers else []
    )
    settings = [part for one in trusted for part in ("-c", one)]
    _git(folder, *settings, "verify-commit", commit, what=f"the signature of commit {commit[:12]}")


def _git(folder: Path, *arguments: str, what: str = "") -> str:
    # What files of the repository say of filters and hooks is never run: a fresh repository has none, and LFS is left out.
    command = ["git", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Refused(
            f"git {arguments[0]} took longer than {_SECONDS} s; see that {what or 'it'} can be reached"
        ) from error
    if done.returncode:
        raise Refused(f"{what or 'git'} is refused or not there: {_gist(done.stderr) or 'git says no more'}")
    return done.stdout


def _gist(said: str) -> str:
    """Return the line of git's that says why; advice comes after it."""
    lines = said.strip().splitlines()
    return next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
