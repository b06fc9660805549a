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


@dataclass(frozen=True)
class Checkout:
    """A folder of a repository, and the commit that it is of."""

    folder: Path
    commit: str


@contextmanager
def checkout(url: str, ref: str, path: str, signed: bool) -> Iterator[Checkout]:
    """Yield the folder `path` of a repository at a branch, tag or commit, "" for its usual branch.

    Raises Refused where there is no such thing, or where `signed` and the commit has no signature that this machine's git trusts.
    """
    if shutil.which("git") is None:
        raise Refused("git is not installed here; install it, or give a file with -f")
    with tempfile.TemporaryDirectory(prefix="milonga-git-") as place:
        folder = Path(place)
        _git(folder, "init", "--quiet")
        # A commit can be fetched as a branch can; nothing of the history comes along.
        _git(folder, "fetch", "--quiet", "--depth", "1", "--", url, ref or "HEAD", what=f"{url} at {ref or 'HEAD'}")
        _git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        if signed:
            _git(folder, "verify-commit", commit, what=f"the signature of commit {commit[:12]}")
        wanted = (folder / path).resolve()
        if not wanted.is_relative_to(folder.resolve()) or not wanted.exists():
            raise Refused(f"there is no {path} in {url} at {ref or 'HEAD'}; name the folder with --path")
        yield Checkout(wanted, commit)


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
        said = done.stderr.strip().splitlines()
        raise Refused(f"{what or 'git'} is refused or not there: {said[-1] if said else f'git {arguments[0]} failed'}")
    return done.stdout
