from datetime import UTC, datetime, timedelta

from milonga.client import Client

hub = Client()

# %% QueryTelemetry
hour_ago = datetime.now(UTC) - timedelta(hours=1)
for window in hub.telemetry.query_telemetry("pi5-1", since=hour_ago):
    print(window.started_at.ToDatetime(), window.request_count, window.latency_ms.p90)

# %% WatchTelemetry
for window in hub.telemetry.watch_telemetry("pi5-1", since=hour_ago):
    print(window.sequence, window.error_count)
    if window.request_count:
        break

# %% ListDriftEvents
for event in hub.telemetry.list_drift_events("digits"):
    print(event.device, event.signal, event.statistic, event.message)

# %% GetRefusedTelemetry
refused = hub.telemetry.get_refused_telemetry("pi5-1")
print(refused.count, refused.reason)

# %% EstimateAccuracy
estimate = hub.telemetry.estimate_accuracy("digits")
print(f"{estimate.accuracy:.1%} ({estimate.low:.1%} to {estimate.high:.1%})")
