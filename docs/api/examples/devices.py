from pathlib import Path

from milonga.client import Client, FailedPrecondition
from milonga.v1 import devices_pb2

hub = Client()

# %% ListDevices
for device in hub.devices.list_devices(selector="role=canary"):
    print(device.name, device.device_type, devices_pb2.DeviceState.Name(device.state), device.active_version)

# %% GetDevice
device = hub.devices.get_device("pi5-1")
print(device.inventory.cpu_model, device.inventory.memory_bytes)

# %% WatchDevices
for device in hub.devices.watch_devices(selector="role=canary"):
    if device.state == devices_pb2.DEVICE_STATE_ONLINE:
        break

# %% UpdateDevice
hub.devices.update_device("pi5-1", labels={"site": "busan", "old_label": ""})

# %% CreateJoinToken
made = hub.devices.create_join_token(labels={"site": "busan"}, uses=10, lifetime_seconds=3600)
print(f"milonga-agent run --hub HUB:8443 --join-token {made.secret}")

# %% ListJoinTokens
for token in hub.devices.list_join_tokens():
    print(token.id, token.uses_left)

# %% ListJoinRequests, ApproveJoinRequest, RefuseJoinRequest
expected = Path("fingerprints.txt").read_text().split()  # As `milonga-agent` shows them on the machines.
for request in hub.devices.list_join_requests():
    if request.key_fingerprint in expected:
        hub.devices.approve_join_request(request.id)
    elif request.state == devices_pb2.JOIN_REQUEST_STATE_PENDING:
        hub.devices.refuse_join_request(request.id)

# %% ListDeviceTypes
for kind in hub.devices.list_device_types():
    print(kind.name, kind.device_count, list(kind.targets))

# %% ListMeasurements
for measurement in hub.devices.list_measurements(device_type="raspberry-pi-5"):
    print(measurement.subnet, measurement.engine, measurement.median_ms)

# %% PinDevice
hub.devices.pin_device("pi5-2", model_version="models/digits/versions/1")
hub.devices.pin_device("pi5-2")  # Lets go of it.

# %% ListDeviceSteps
for step in hub.devices.list_device_steps("pi5-1"):
    print(step.generation, step.step, step.state, step.message)

# %% GetDeviceTransfers
came = hub.devices.get_device_transfers("pi5-1")
print(came.moved_bytes - came.neighbour_bytes, "of", came.whole_bytes, "from the hub;", came.served_bytes, "sent on")

# %% ListDeviceBuilds
for built in hub.devices.list_device_builds(device="orin-1"):
    print(built.engine, built.precision, built.seconds, built.error)

# %% RestartDevice, ProfileDevice, UpgradeDevice
hub.devices.restart_device("pi5-1")
hub.devices.profile_device("pi5-1")
hub.devices.upgrade_device("pi5-1")

# %% GetDeviceLog
try:
    print(hub.devices.get_device_log("zero2-2", max_bytes=4096).text)
except FailedPrecondition as problem:
    print(problem)  # Only a device that is connected can be asked.

# %% DiagnoseDevice
try:
    archive = hub.devices.diagnose_device("zero2-2")
except FailedPrecondition as problem:
    print(problem)

# %% RevokeDevice
hub.devices.revoke_device("zero2-2")

# %% DeleteDevice
hub.devices.delete_device("zero2-2")
