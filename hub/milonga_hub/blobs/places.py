"""Where a hub has its blobs: in its data folder, or where a URL says. The folder remembers, so that none is looked for elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from milonga_compiler.files import write_atomically

from milonga_hub.blobs.cache import Cache
from milonga_hub.blobs.disk import BlobStore
from milonga_hub.blobs.interface import Blobs
from milonga_hub.blobs.objects import ObjectBlobs
from milonga_hub.errors import BlobsUnreachable, FailedPrecondition, InvalidInput

# In the data folder: the URL, where blobs are not there themselves.
RECORD = "blobs.json"
# Of blobs that lie elsewhere. Backups leave it out.
CACHE = "blob-cache"
BLOBS, PICTURES = "blobs", "samples"
# Pictures that wait for labels are looked at once or twice; the rest of the room is for what trains and is sent.
_PICTURES_SHARE = 1 / 16
_LOOKING_BYTES = 1 << 30
# A store that does not answer is told within half a minute; what passes by itself is tried again by ObjectBlobs.
_S3_CONFIG = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}
_S3 = ("s3", "s3a")
_EXTRAS = {
    "s3": "milonga-hub[s3]",
    "s3a": "milonga-hub[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}


@dataclass(frozen=True)
class Stores:
    """The two stores of a hub: `pictures` are those of devices, until their labels make them part of a data set."""

    blobs: Blobs
    pictures: Blobs

    def prepare(self) -> None:
        """Make them ready to be used. Raises BlobsUnreachable where they cannot be."""
        self.blobs.prepare()
        self.pictures.prepare()

    @property
    def named(self) -> tuple[tuple[str, Blobs], ...]:
        """Return each with the name of its folder."""
        return ((BLOBS, self.blobs), (PICTURES, self.pictures))


def recorded(folder: Path) -> str:
    """Return the URL under which the hub of this data folder has its blobs; "" for the folder itself."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["url"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(f"{folder / RECORD} cannot be read: {error}; bring it back from a backup") from error


def record(folder: Path, url: str) -> None:
    """Keep where blobs are from now on."""
    if url:
        write_atomically(folder / RECORD, json.dumps({"url": url}))
    else:
        (folder / RECORD).unlink(missing_ok=True)


def settled(folder: Path, wanted: str) -> str:
    """Return the URL to use: the one that is `wanted` if the hub has no blobs yet or has them there, else the recorded one.

    Raises FailedPrecondition where blobs would be looked for where they are not.
    """
    known = recorded(folder)
    if wanted in ("", known):
        return known
    if known or any(_has_some(folder / name) for name in (BLOBS, PICTURES)):
        raise FailedPrecondition(
            f"this hub has its blobs in {known or folder}, not in {shown(wanted)}: move them with `milonga blobs move --to URL`,"
            " or start the hub without --blobs"
        )
    return wanted


def open_stores(folder: Path, url: str, cache_bytes: int, cache: Path | None = None) -> Stores:
    """Return the stores under this URL, "" for the data folder; `cache` is the folder of copies, for others than the hub itself.

    Raises InvalidInput for a URL that cannot be used, FailedPrecondition naming a package that is missing.
    """
    if not url:
        return Stores(BlobStore(folder / BLOBS), BlobStore(folder / PICTURES))
    check_url(url)
    parts = urlsplit(url)
    if parts.scheme in ("file", "local"):
        root = Path(unquote(parts.path))
        return Stores(BlobStore(root / BLOBS), BlobStore(root / PICTURES))
    store, prefix = _store(url, parts.scheme)
    cache = cache or folder / CACHE
    pictures_bytes = int(cache_bytes * _PICTURES_SHARE)
    return Stores(
        _objects(store, prefix, url, BLOBS, Cache(cache / BLOBS, cache_bytes - pictures_bytes)),
        _objects(store, prefix, url, PICTURES, Cache(cache / PICTURES, pictures_bytes)),
    )


@contextmanager
def looking_at(folder: Path, url: str) -> Iterator[Stores]:
    """Open the stores of a hub that may be running: with copies of one's own, which are gone when the block ends."""
    (folder / CACHE).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder / CACHE, prefix=".look-") as cache:
        yield open_stores(folder, url, _LOOKING_BYTES, Path(cache))


def check_url(url: str) -> None:
    """Raise InvalidInput for a URL that says no place, or more than a place."""
    parts = urlsplit(url)
    if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
        raise InvalidInput(
            f"{shown(url)!r} is no place for blobs; name one such as s3://BUCKET/PREFIX or file:///mnt/blobs"
        )
    if parts.password is not None or parts.query or parts.fragment:
        raise InvalidInput(
            f"the URL of blobs names a place and no secrets or options: {shown(url)}; credentials come from where the store's"
            " library looks for them (docs/storage.md)"
        )


def shown(url: str) -> str:
    """Return the URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else url


def _objects(store: Any, prefix: str, url: str, name: str, cache: Cache) -> ObjectBlobs:
    return ObjectBlobs(store, f"{prefix.rstrip('/')}/{name}", f"{shown(url).rstrip('/')}/{name}", cache)


def _store(url: str, scheme: str) -> tuple[Any, str]:
    # Imported here: most hubs have their blobs on disk.
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in _S3:
        options["config_kwargs"] = _S3_CONFIG
    try:
        store, prefix = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = _EXTRAS.get(scheme)
        hint = f"pip install '{package}'" if package else str(error)
        raise FailedPrecondition(f"blobs in {shown(url)} need a package that is not installed: {hint}") from error
    except ValueError as error:
        raise InvalidInput(f"{shown(url)}: {error}") from error
    except Exception as error:  # Stores that connect at once, each with errors of its own.
        raise BlobsUnreachable(f"{shown(url)} does not answer ({type(error).__name__}: {error})") from error
    if scheme in _S3:
        store.retries = 1
    return store, str(prefix)


def _has_some(folder: Path) -> bool:
    return next(folder.glob("??/*"), None) is not None
