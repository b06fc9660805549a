"""What a fleet did in the last day, as Markdown for a ticket or a chat: python fleet_report.py PROJECT > report.md

It exits with 1 where something needs a person, so that a scheduler can tell. The hub and the key are those of
MILONGA_HUB and MILONGA_API_KEY; a key with the role viewer is enough.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

from milonga.client import Client, FailedPrecondition, HubError
from milonga.v1 import alerts_pb2, devices_pb2

DAY = timedelta(days=1)


def report(hub: Client, project: str) -> tuple[str, bool]:
    """Return the report, and whether something needs a person."""
    since = datetime.now(UTC) - DAY
    requests: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for window in hub.telemetry.query_telemetry(project=project, since=since):
        requests[window.device] += window.request_count
        failed[window.device] += window.error_count
    lines = [f"# {project}", "", "| device | state | version | requests | failed |", "|---|---|---|---|---|"]
    for device in hub.devices.list_devices():
        state = devices_pb2.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower()
        version = device.active_version.rpartition("/")[2] or "none"
        lines.append(f"| {device.name} | {state} | {version} | {requests[device.name]} | {failed[device.name]} |")
    try:
        estimate = hub.telemetry.estimate_accuracy(project)
        lines += [
            "",
            f"About {estimate.accuracy:.1%} of the answers are right, {estimate.validated:.1%} when validated.",
        ]
    except FailedPrecondition as problem:
        lines += ["", f"How many answers are right is not known: {problem}"]
    alerts = [*hub.alerts.list_alerts(state=alerts_pb2.ALERT_STATE_OPEN, project=project)]
    lines += ["", *(f"- **{alert.subject}**: {alert.message}; {alert.next_step}" for alert in alerts)]
    return "\n".join(lines), bool(alerts)


def main(project: str) -> int:
    try:
        with Client() as hub:
            text, needs_a_person = report(hub, project)
    except HubError as problem:
        print(problem, file=sys.stderr)
        return 2
    print(text)
    return int(needs_a_person)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
