"""Bundles: equal inputs give equal digests, and whatever was changed is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_compiler.bundle import Bundle, checked_path, read_bundle, verify_bundle, write_bundle
from milonga_compiler.errors import BundleInvalid

MANIFEST = {"task": "classification", "project": "digits", "model_file": "model.onnx"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def bundle(tmp_path: Path, weights: Path) -> Bundle:
    return write_bundle(tmp_path / "a", MANIFEST, {"model.onnx": weights, "extra/notes.txt": weights})


def _rewrite(bundle: Bundle, **changes: Any) -> None:
    (bundle.folder / "manifest.json").write_text(json.dumps({**bundle.manifest, **changes}))


def test_equal_inputs_give_an_equal_bundle(tmp_path: Path, weights: Path, bundle: Bundle) -> None:
    files = {"extra/notes.txt": weights, "model.onnx": weights}
    second = write_bundle(tmp_path / "b", dict(reversed(MANIFEST.items())), files)
    assert bundle.digest == second.digest
    assert {file.path for file in bundle.files} == {"manifest.json", "model.onnx", "extra/notes.txt"}


def test_the_digest_is_that_of_the_manifest_file(bundle: Bundle) -> None:
    written = (bundle.folder / "manifest.json").read_bytes()
    assert bundle.digest == "sha256:" + hashlib.sha256(written).hexdigest()
    assert verify_bundle(bundle.folder) == bundle


def test_writing_again_replaces_the_whole_folder_and_leaves_nothing_beside_it(
    tmp_path: Path, weights: Path, bundle: Bundle
) -> None:
    write_bundle(bundle.folder, MANIFEST, {"model.onnx": weights})
    assert sorted(path.name for path in bundle.folder.iterdir()) == ["manifest.json", "model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "weights"]


def test_a_failed_write_keeps_the_old_bundle(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(bundle.folder, MANIFEST, {"model.onnx": tmp_path / "nowhere"})
    assert verify_bundle(bundle.folder) == bundle
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "weights"]


@pytest.mark.parametrize("name", ["model.onnx", "extra/notes.txt"])
def test_a_changed_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).write_bytes(b"Weights")
    with pytest.raises(BundleInvalid, match=f"{name} is not the file"):
        verify_bundle(bundle.folder)


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.folder / "model.onnx").unlink()
    with pytest.raises(BundleInvalid, match=r"model\.onnx is missing"):
        verify_bundle(bundle.folder)


def test_a_link_out_of_the_bundle_is_refused_even_to_equal_bytes(bundle: Bundle, weights: Path) -> None:
    (bundle.folder / "model.onnx").unlink()
    (bundle.folder / "model.onnx").symlink_to(weights)
    with pytest.raises(BundleInvalid, match=r"model\.onnx is a link"):
        verify_bundle(bundle.folder)


def test_a_linked_folder_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    (bundle.folder / "extra").rename(tmp_path / "elsewhere")
    (bundle.folder / "extra").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleInvalid, match=r"notes\.txt is a link"):
        verify_bundle(bundle.folder)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "C:x", "", ".", "a//b", "a/"])
def test_a_manifest_that_points_outside_is_refused(bundle: Bundle, path: str) -> None:
    _rewrite(bundle, files=[{**bundle.manifest["files"][0], "path": path}])
    with pytest.raises(BundleInvalid, match="is not a path inside a bundle"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("digest", ["sha256:0", "md5:" + "0" * 64, "sha256:" + "G" * 64, None])
def test_a_digest_that_is_none_is_refused(bundle: Bundle, digest: str | None) -> None:
    _rewrite(bundle, files=[{"path": "model.onnx", "digest": digest, "size_bytes": 7}])
    with pytest.raises(BundleInvalid, match=r"model\.onnx"):
        read_bundle(bundle.folder)


def test_a_file_that_is_used_must_be_listed(bundle: Bundle) -> None:
    _rewrite(bundle, model_file="other.onnx")
    with pytest.raises(BundleInvalid, match=r"other\.onnx"):
        read_bundle(bundle.folder)


def test_a_file_listed_twice_is_refused(bundle: Bundle) -> None:
    _rewrite(bundle, files=[*bundle.manifest["files"], bundle.manifest["files"][0]])
    with pytest.raises(BundleInvalid, match="twice"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "{}", '{"format": 2}', '{"format": 1, "files": 3}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleInvalid, match=r"manifest\.json"):
        read_bundle(tmp_path)


def test_a_manifest_with_nan_is_not_written(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(BundleInvalid, match="JSON"):
        write_bundle(tmp_path / "b", {**MANIFEST, "expected_ms": float("nan")}, {"model.onnx": weights})
    assert not (tmp_path / "b").exists()


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "b.onnx"]), max_size=5).map("/".join))
def test_no_checked_path_leaves_its_folder(path: str) -> None:
    try:
        inside = Path("/bundle") / checked_path(path)
    except BundleInvalid:
        return
    assert inside.is_relative_to("/bundle") and ".." not in inside.parts and inside != Path("/bundle")


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=1, max_size=4))
def test_plain_names_are_paths(parts: list[str]) -> None:
    assert checked_path("/".join(parts)) == "/".join(parts)
