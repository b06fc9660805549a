from datetime import UTC, datetime, timedelta

from milonga.client import Client, FailedPrecondition
from milonga.v1 import alerts_pb2

hub = Client()

# %% ListAlerts, GetAlert
for alert in hub.alerts.list_alerts(state=alerts_pb2.ALERT_STATE_OPEN):
    print(alert.subject, alert.message, alert.next_step)
    for delivery in hub.alerts.get_alert(alert.id).deliveries:
        print(delivery.channel, delivery.attempts, delivery.error)

# %% AcknowledgeAlert
newest = next(hub.alerts.list_alerts(state=alerts_pb2.ALERT_STATE_OPEN))
hub.alerts.acknowledge_alert(newest.id, by="kim", note="the lamp is being repaired")

# %% CreateSilence, ListSilences, EndSilence
tomorrow = datetime.now(UTC) + timedelta(days=1)
silence = hub.alerts.create_silence("device-offline", reason="the site moves", until=tomorrow)
for each in hub.alerts.list_silences():
    print(each.rule, each.until.ToDatetime())
hub.alerts.end_silence(silence.id)

# %% ListAlertRules
for rule in hub.alerts.list_alert_rules():
    print(rule.name, alerts_pb2.AlertSignal.Name(rule.spec.watch))

# %% ApplyAlertRule, DeleteAlertRule
spec = alerts_pb2.AlertRuleSpec(watch=alerts_pb2.ALERT_SIGNAL_TEMPERATURE, threshold=80.0, for_seconds=300.0)
print(list(hub.alerts.apply_alert_rule("hot", spec=spec).changes))
hub.alerts.delete_alert_rule("hot")

# %% ApplyAlertChannel, ListAlertChannels
hook = alerts_pb2.WebhookSpec(url="https://127.0.0.1:9/alerts", secret="a long secret that signs each message")
hub.alerts.apply_alert_channel("operations", spec=alerts_pb2.AlertChannelSpec(webhook=hook))
for channel in hub.alerts.list_alert_channels():
    print(channel.name, channel.spec.webhook.url)

# %% TestAlertChannel
try:
    print(hub.alerts.test_alert_channel("operations"))
except FailedPrecondition as problem:
    print(problem.reason, problem)  # CHANNEL_FAILED

# %% DeleteAlertChannel
hub.alerts.delete_alert_channel("operations")
