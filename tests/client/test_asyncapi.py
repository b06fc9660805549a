"""The AsyncAPI description says what brokers allow and what hub and agents read and write."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from milonga.v1 import telemetry_pb2
from milonga_hub.telemetry.messages import parse_window
from milonga_hub.transports.mosquitto_files import topics_text

from tools.codegen.__main__ import PAGES
from tools.codegen.asyncapi import asyncapi

DESCRIBED = yaml.safe_load((PAGES / "asyncapi.yaml").read_text(encoding="utf-8"))


def _message(leaf: str) -> Any:
    (name,) = DESCRIBED["channels"][leaf]["messages"]
    told = DESCRIBED["components"]["messages"][name]
    return json_format.ParseDict(told["examples"][0]["payload"], getattr(telemetry_pb2, name)())


def test_the_description_is_that_of_the_code() -> None:
    assert yaml.safe_load(asyncapi()) == DESCRIBED, "run: make protos"


def test_what_the_hub_hears_and_says_is_what_brokers_allow() -> None:
    allowed = [line.split()[1:] for line in topics_text().splitlines() if line.startswith("pattern ")]
    ways = {"write": "receive", "read": "send"}
    expected = {(ways[way], topic.replace("%u", "{device}")) for way, topic in allowed}
    channels = {f"#/channels/{leaf}": channel["address"] for leaf, channel in DESCRIBED["channels"].items()}
    operations = DESCRIBED["operations"].values()
    assert {(each["action"], channels[each["channel"]["$ref"]]) for each in operations} == expected


def test_the_hub_reads_the_window_of_the_example() -> None:
    window: Any = _message("telemetry")
    topic = DESCRIBED["channels"]["telemetry"]["address"].replace("{device}", window.device)
    read = parse_window(topic, window.SerializeToString())
    assert (read.device, read.sequence, read.request_count) == ("pi5-1", 7, 60)


@pytest.mark.parametrize("leaf", ["telemetry", "event", "status", "ack"])
def test_a_schema_has_the_fields_of_its_message(leaf: str) -> None:
    message = _message(leaf)
    schema = DESCRIBED["components"]["messages"][message.DESCRIPTOR.name]["payload"]["schema"]
    for field in message.DESCRIPTOR.fields:
        assert f" {field.name} = {field.number};" in schema
        if field.message_type is not None and field.message_type.file.package == "milonga.v1":
            assert f"message {field.message_type.name} {{" in schema or field.message_type.GetOptions().map_entry


def test_all_references_lead_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [each for item in value.values() for each in references(item)]
        return [each for item in value for each in references(item)] if isinstance(value, list) else []

    found = references(DESCRIBED)
    assert found
    for reference in found:
        at = DESCRIBED
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
