from milonga.client import Client, FailedPrecondition, NotFound

hub = Client()

# %% ApplyWebhook, ListWebhooks
made = hub.webhooks.apply_webhook(
    "chat", url="https://127.0.0.1:9/milonga", events=["rollout.finished", "rollout.paused"], project="digits"
)
print("keep this with the receiver:", made.secret)
for webhook in hub.webhooks.list_webhooks():
    print(webhook.name, webhook.url, list(webhook.events))

# %% TestWebhook
try:
    print(hub.webhooks.test_webhook("chat"))
except FailedPrecondition as problem:
    print(problem.reason, problem)  # CHANNEL_FAILED

# %% ListWebhookDeliveries
for delivery in hub.webhooks.list_webhook_deliveries("chat"):
    print(delivery.event, delivery.subject, delivery.attempts, delivery.error)

# %% RedeliverWebhook
try:
    print(hub.webhooks.redeliver_webhook("chat"))
except NotFound as problem:
    print(problem)  # nothing was given up

# %% DeleteWebhook
hub.webhooks.delete_webhook("chat")
