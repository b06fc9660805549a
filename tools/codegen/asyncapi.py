"""The MQTT topics as AsyncAPI 3 describes them: addresses from the hub's own code, messages from the protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from milonga_hub.telemetry.messages import TOPIC_ROOT
from milonga_hub.transports.topics import DOWNWARD, UPWARD

from tools.codegen.describe import PROTOS

_FOLDER = PROTOS / "milonga" / "v1"
_HEAD = "# Made from the protocol and the hub's code by `make protos`: change it there.\n"
_BLOCK = r"(?:^//[^\n]*\n)*^(?:message|enum) {name} \{{\n.*?^\}}\n"
_TIME = "2026-01-02T03:04:05Z"


@dataclass(frozen=True)
class _Topic:
    message: str
    summary: str
    # As protobuf's JSON mapping has it.
    example: dict[str, Any]
    retain: bool = False
    qos: int = 1


# By the last part of the address.
TOPICS = {
    "telemetry": _Topic(
        "TelemetryWindow",
        "What one model did on the device in one stretch of time. A repeat of (device, boot_id, sequence) is harmless.",
        {
            "device": "pi5-1",
            "bootId": "b6a1",
            "sequence": "7",
            "startedAt": _TIME,
            "endedAt": "2026-01-02T03:04:35Z",
            "bundle": f"sha256:{'0' * 64}",
            "modelVersion": "models/digits/versions/1",
            "project": "digits",
            "requestCount": "60",
            "confidence": {"low": 0.0, "high": 1.0, "counts": ["0", "0", "10", "50"]},
            "classCounts": ["31", "29"],
        },
    ),
    "event": _Topic(
        "DeviceEvent",
        "Something that happened on the device. Brokers allow it; agents do not send it yet.",
        {"device": "pi5-1", "bootId": "b6a1", "sequence": "8", "occurredAt": _TIME, "kind": "restart", "message": ""},
    ),
    "status": _Topic(
        "DeviceStatus",
        "Whether the device is connected, retained. The broker publishes the last will, `online` false, where it goes without"
        " a word. For whoever listens: the hub itself goes by the device's gRPC stream.",
        {"device": "pi5-1", "online": True, "bootId": "b6a1"},
        retain=True,
    ),
    "ack": _Topic(
        "TelemetryAck",
        "Windows that the hub has committed; the device may forget them, and sends all others again.",
        {"bootId": "b6a1", "sequences": ["7"]},
        # One that is lost is said again, once the device has sent its windows again.
        qos=0,
    ),
}


def asyncapi() -> str:
    """Return the description as YAML."""
    leaves = [*UPWARD, *DOWNWARD]
    described = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Milonga over MQTT",
            "version": "1",
            "description": "What devices and the hub say to each other over MQTT 3.1.1, seen from the hub. Devices connect with their"
            " certificates, whose common name is {device}, and reach their own topics alone. Payloads are serialised"
            " messages of milonga.v1; the examples show them in protobuf's JSON.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/x-protobuf",
        "channels": {leaf: _channel(leaf) for leaf in leaves},
        "operations": {
            f"{'receive' if leaf in UPWARD else 'send'}_{leaf}": {
                "action": "receive" if leaf in UPWARD else "send",
                "channel": {"$ref": f"#/channels/{leaf}"},
                "messages": [{"$ref": f"#/channels/{leaf}/messages/{TOPICS[leaf].message}"}],
                "bindings": {
                    "mqtt": {"qos": TOPICS[leaf].qos, "retain": TOPICS[leaf].retain, "bindingVersion": "0.2.0"}
                },
            }
            for leaf in leaves
        },
        "components": {"messages": {TOPICS[leaf].message: _message(TOPICS[leaf]) for leaf in leaves}},
    }
    return _HEAD + yaml.dump(described, Dumper=_Readable, sort_keys=False, width=120, allow_unicode=True)


def _channel(leaf: str) -> dict[str, Any]:
    name = TOPICS[leaf].message
    return {
        "address": f"{TOPIC_ROOT}/{{device}}/{leaf}",
        "description": TOPICS[leaf].summary,
        "parameters": {"device": {"description": "The device's name, as it stands in its certificate."}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _message(topic: _Topic) -> dict[str, Any]:
    return {
        "name": f"milonga.v1.{topic.message}",
        "summary": topic.summary,
        "contentType": "application/x-protobuf",
        "payload": {
            "schemaFormat": "application/vnd.google.protobuf;version=3",
            "schema": 'syntax = "proto3";\n\npackage milonga.v1;\n\nimport "google/protobuf/timestamp.proto";\n\n'
            + "\n".join(_definitions(topic.message)),
        },
        "examples": [{"payload": topic.example}],
    }


def _definitions(name: str) -> Iterator[str]:
    """Yield the text of a message and then of those that it needs."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.proto"))]
    waiting, told = [name], set[str]()
    while waiting:
        wanted = waiting.pop(0)
        pattern = re.compile(_BLOCK.format(name=wanted), re.MULTILINE | re.DOTALL)
        found = next((match[0] for text in texts if (match := pattern.search(text))), None)
        if wanted in told or found is None:
            continue  # A scalar, or of google.protobuf.
        told.add(wanted)
        yield found
        waiting += re.findall(r"\b([A-Z]\w+)>? \w+ = \d+", found)


class _Readable(yaml.SafeDumper):
    """Writes texts of several lines as such, and nothing as an alias of something before."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
