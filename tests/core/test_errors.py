"""Errors as programs read them: reasons that are documented, details that other libraries understand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from milonga.status import METADATA_KEY, FieldViolation, Problem, pack, unpack
from milonga_hub.errors import InvalidInput

ROOT = Path(__file__).parents[2]
HUB = ROOT / "hub" / "milonga_hub"
DOCS = (ROOT / "docs" / "api" / "errors.md").read_text(encoding="utf-8")
WHOLE = Problem(
    code=3,
    message="latency_ms must be above 0",
    reason="INVALID_INPUT",
    metadata={"resource": "projects/digits"},
    violations=(FieldViolation("spec.limits[0].latency_ms", "must be above 0"),),
    retry_after_seconds=1.5,
)


def test_what_is_packed_is_unpacked() -> None:
    assert unpack(pack(WHOLE)) == WHOLE
    bare = Problem(5, "no device 'x'", "NOT_FOUND")
    assert unpack(pack(bare)) == bare


@pytest.mark.parametrize("told", [b"", b"\xff\xff", pack(WHOLE).replace(b"milonga", b"another")])
def test_what_another_server_says_is_left_alone(told: bytes) -> None:
    assert unpack(told) is None


def test_other_libraries_understand_the_details() -> None:
    errors = pytest.importorskip("google.rpc.error_details_pb2", reason="comes with the hub's extra `traces`")
    status_pb2 = importlib.import_module("google.rpc.status_pb2")
    status = status_pb2.Status.FromString(pack(WHOLE))
    info, bad, retry = errors.ErrorInfo(), errors.BadRequest(), errors.RetryInfo()
    assert all(packed.Unpack(into) for packed, into in zip(status.details, (info, bad, retry), strict=True))
    assert (status.code, status.message) == (3, WHOLE.message)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_INPUT", "milonga", WHOLE.metadata)
    assert bad.field_violations[0].field == "spec.limits[0].latency_ms"
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5
    assert METADATA_KEY == "grpc-status-details-bin"


def test_every_reason_is_documented_and_no_other() -> None:
    # Read, not imported: all of the hub takes seconds.
    texts = (path.read_text(encoding="utf-8") for path in HUB.rglob("*.py"))
    reasons = {reason for text in texts for reason in re.findall(r"^    reason(?:: .*)? = \"([A-Z_]+)\"$", text, re.M)}
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", DOCS.partition("## Reasons")[2], re.MULTILINE))
    assert documented == reasons | {"INTERNAL"}
    in_client = set(re.findall(r"`([A-Z_]+)`", DOCS.partition("## In milonga.client")[2].partition("## Reasons")[0]))
    assert in_client == documented


def test_fields_are_named_from_what_contains_them() -> None:
    inner = InvalidInput("x", (FieldViolation("latency_ms", "y"),))
    assert inner.within("limits[0]").within("spec").violations == (FieldViolation("spec.limits[0].latency_ms", "y"),)
