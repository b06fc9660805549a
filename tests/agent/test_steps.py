"""Files come whole or not at all, however the network and the disk behave."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from milonga_agent.downloads import Offer
from milonga_agent.errors import BadBundle, DiskFull, HubUnreachable
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.steps import Depot

from tests.agent.bundles import Example, example


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("bundle"))


class _Source:
    """A hub's blobs behind a line that may break. It is from before chunks and deltas."""

    def __init__(self, blobs: dict[str, bytes], breaks_after: int | None = None) -> None:
        self.blobs, self.breaks_after = blobs, breaks_after
        self.sent_bytes = 0

    async def fetch(self, digest: str, offset: int, length: int = 0) -> AsyncIterator[bytes]:
        data = self.blobs[digest][offset:]
        for start in range(0, len(data), 1000):
            if self.breaks_after is not None and self.sent_bytes >= self.breaks_after:
                raise HubUnreachable("the line broke")
            self.sent_bytes += len(data[start : start + 1000])
            yield data[start : start + 1000]

    async def offer(self, digest: str, held: Sequence[str]) -> Offer:
        return Offer()


def _download(depot: Depot, files: tuple[WantedFile, ...], source: _Source) -> None:
    asyncio.run(depot.download(files, source, lambda fraction: None))


def test_a_bundle_is_downloaded_verified_and_installed(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    depot.verify(wish)
    folder = depot.install(wish)
    assert {path.name for path in folder.iterdir()} == {file.path for file in wish.files}


def test_a_model_to_measure_lies_beside_the_files_that_it_needs(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    model = depot.model(wish)
    assert model.name == made.bundle.manifest["model_file"]
    assert {path.name for path in model.parent.iterdir()} == {file.path for file in wish.files}
    alone = next(file for file in wish.files if file.path == model.name)
    assert depot.model(Wish(files=(alone,))).read_bytes() == model.read_bytes()
    depot.collect([wish])
    assert model.exists()
    depot.collect([])
    assert not model.exists()


def test_a_broken_download_goes_on_where_it_stopped(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    total = sum(file.size_bytes for file in wish.files)
    broken = _Source(made.blobs(), breaks_after=total // 2)
    with pytest.raises(HubUnreachable):
        _download(depot, wish.files, broken)
    rest = _Source(made.blobs())
    _download(depot, wish.files, rest)
    assert broken.sent_bytes + rest.sent_bytes == total
    depot.verify(wish)


def test_a_damaged_file_is_named_and_removed(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    model = next(file for file in wish.files if file.path.endswith(".onnx"))
    damaged = dict(made.blobs())
    damaged[model.digest] = b"\0" * model.size_bytes
    _download(depot, wish.files, _Source(damaged))
    with pytest.raises(BadBundle, match=r"model\.onnx does not have the digest"):
        depot.verify(wish)
    _download(depot, wish.files, _Source(made.blobs()))
    depot.verify(wish)


def test_a_manifest_that_was_not_assigned_is_refused(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    with pytest.raises(BadBundle, match="not the one that was assigned"):
        depot.verify(replace(wish, bundle="sha256:" + "1" * 64))


def test_a_file_that_the_manifest_does_not_name_is_refused(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    with pytest.raises(BadBundle, match="the manifest does not name extra"):
        depot.verify(replace(wish, files=(*wish.files, replace(wish.files[0], path="extra"))))


def test_a_bundle_of_another_project_is_refused(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    assert depot.project(wish) == depot.project(replace(wish, project="")) == "digits"
    with pytest.raises(BadBundle, match="for the project 'digits', and was assigned for 'dogs'"):
        depot.project(replace(wish, project="dogs"))


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b"])
def test_a_path_that_points_outside_is_refused(made: Example, tmp_path: Path, path: str) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    evil = replace(wish, files=(*wish.files, replace(wish.files[0], path=path)))
    with pytest.raises(BadBundle, match="not a path inside a bundle"):
        depot.install(evil)
    assert not depot.bundle(wish.bundle).exists()


def test_a_full_disk_says_so_and_keeps_what_was_fetched(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    # A limit on file sizes fails a write in the middle, as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskFull, match="free some space"):
            _download(depot, wish.files, _Source(made.blobs()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    model = next(file for file in wish.files if file.path.endswith(".onnx"))
    assert not depot.blob(model.digest).exists()
    rest = _Source(made.blobs())
    _download(depot, wish.files, rest)
    depot.verify(wish)
    assert rest.sent_bytes < sum(file.size_bytes for file in wish.files)


def test_what_nobody_needs_is_collected(made: Example, tmp_path: Path) -> None:
    depot, wish = Depot(tmp_path), made.wish()
    _download(depot, wish.files, _Source(made.blobs()))
    depot.install(wish)
    depot.collect([wish])
    assert depot.bundle(wish.bundle).exists()
    depot.collect([])
    assert not depot.bundle(wish.bundle).exists()
    assert not list((tmp_path / "cache").iterdir())
