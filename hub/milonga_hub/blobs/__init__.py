"""Files addressed by what they contain: kept once, never changed, never half-written. Where they lie, settings say."""

from milonga_hub.blobs.disk import BlobStore
from milonga_hub.blobs.interface import Blobs, Kept, Sink, digest_of, digest_of_file

__all__ = ["BlobStore", "Blobs", "Kept", "Sink", "digest_of", "digest_of_file"]
