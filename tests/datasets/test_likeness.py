"""Pictures that look alike, and where in pictures boxes are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.likeness import Likenesses
from milonga_hub.datasets.rules import TRAIN, Box, Sample
from milonga_hub.datasets.rules_coverage import SIDE, coverage_of
from milonga_hub.datasets.rules_likeness import groups_of, look_of
from milonga_hub.events import EventBus
from PIL import Image


def _scene(seed: int, size: int = 96) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)


def _packed(image: Image.Image, form: str = "JPEG", quality: int = 90) -> bytes:
    packed = io.BytesIO()
    image.save(packed, form, quality=quality)
    return packed.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_copy_in_another_size_and_quality_looks_alike_and_another_picture_does_not() -> None:
    looks = [
        look_of(_opened(_packed(_scene(1)))),
        look_of(_opened(_packed(_scene(2)))),
        look_of(_opened(_packed(_scene(1, 200), quality=35))),
        look_of(_opened(_packed(_scene(3), "PNG"))),
    ]
    assert groups_of(looks) == [(0, 2)]


def test_plain_surfaces_are_not_said_to_be_alike() -> None:
    assert groups_of([look_of(Image.new("RGB", (64, 64), (grey, grey, grey))) for grey in (90, 91, 90)]) == []


def test_pictures_of_a_version_are_looked_at_beside_everything_else(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digests = [blobs.put(_packed(_scene(seed), form)) for seed, form in ((1, "JPEG"), (1, "PNG"), (2, "PNG"))]
    samples = [Sample(digest, "a", TRAIN, 1, f"{digest}.png") for digest in [*digests, "sha256:" + "0" * 64]]
    likenesses = Likenesses(blobs, EventBus())
    begun = likenesses.of("datasets/a/versions/1", samples)
    assert (begun.total, begun.groups) == (4, None)
    likenesses.finish()
    found = likenesses.of("datasets/a/versions/1", samples)
    assert found.groups is not None
    assert [{sample.digest for sample in group} for group in found.groups] == [{digests[0], digests[1]}]


def test_what_looks_alike_is_known_after_a_restart_and_looked_for_anew_where_its_file_is_damaged(
    tmp_path: Path,
) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digests = [blobs.put(_packed(_scene(seed), form)) for seed, form in ((2, "PNG"), (1, "JPEG"), (1, "PNG"))]
    samples = [Sample(digest, "a", TRAIN, 1, f"{digest}.png") for digest in digests]

    def restarted() -> Likenesses:
        return Likenesses(blobs, EventBus(), tmp_path / "likeness")

    first = restarted()
    first.of("datasets/a/versions/1", samples)
    first.finish()
    assert restarted().of("datasets/a/versions/1", samples).groups == [tuple(samples[1:])]
    assert restarted().of("datasets/a/versions/2", samples[:2]).groups is None, "of other pictures nothing is known"
    (file,) = [one for one in (tmp_path / "likeness").iterdir() if "[[" in one.read_text()]
    file.write_text("[[7]]")
    assert restarted().of("datasets/a/versions/1", samples).groups is None


def test_parts_of_the_frame_count_the_boxes_over_them() -> None:
    boxes = (Box("a", 0.5, 0.5, 1.0, 1.0), Box("b", 0.25, 0.25, 0.5, 0.5), Box("b", 0.99, 0.99, 0.001, 0.001))
    samples = [Sample("sha256:0", "", TRAIN, 1, "0.png", boxes)]
    found = coverage_of(samples)
    assert found is not None and found.boxes == 3
    assert found.counts[0][0] == 2 and found.counts[0][SIDE - 1] == 1 and found.counts[SIDE - 1][SIDE - 1] == 2
    only = coverage_of(samples, "a")
    assert only is not None and {count for row in only.counts for count in row} == {1}
    assert coverage_of(samples, "c") is None
