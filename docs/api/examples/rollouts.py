from milonga.client import Client, FailedPrecondition
from milonga.v1 import projects_pb2, rollouts_pb2

hub = Client()
version = "models/digits/versions/1"

# %% ListRollouts
for rollout in hub.rollouts.list_rollouts("digits"):
    print(rollout.id, rollout.model_version, rollouts_pb2.RolloutState.Name(rollout.state))

# %% CreateRollout
spec = projects_pb2.RolloutSpec(wave_sizes=[1], waves=[0.5, 0.5], soak_seconds=600, approval=True)
would = hub.rollouts.create_rollout(version, selector="role=canary", spec=spec, dry_run=True)
print([device.device for device in would.devices])
rollout = hub.rollouts.create_rollout(version, selector="role=canary", spec=spec)

# %% ApproveRollout
hub.rollouts.approve_rollout(rollout.id)

# %% PauseRollout, ResumeRollout
hub.rollouts.pause_rollout(rollout.id)
hub.rollouts.resume_rollout(rollout.id)

# %% RetryRollout
try:
    hub.rollouts.retry_rollout(rollout.id)
except FailedPrecondition as problem:
    print(problem)  # No device has failed.

# %% GetRollout
for device in hub.rollouts.get_rollout(rollout.id).devices:
    print(device.device, device.wave, rollouts_pb2.RolloutDeviceState.Name(device.state), device.message)

# %% AbortRollout
hub.rollouts.abort_rollout(rollout.id)

# %% RollBackRollout
try:
    print(hub.rollouts.roll_back_rollout(rollout.id).model_version)
except FailedPrecondition as problem:
    print(problem)  # No device had a version before.

# %% WatchRollout
for seen in hub.rollouts.watch_rollout(rollout.id):
    print(rollouts_pb2.RolloutState.Name(seen.state), [wave.succeeded_count for wave in seen.waves])

# %% UpgradeAgents
try:
    some_at_a_time = projects_pb2.RolloutSpec(max_concurrent=5)
    upgrade = hub.rollouts.upgrade_agents(selector="type=pi5", spec=some_at_a_time)
    print(upgrade.id, upgrade.agent_version)
except FailedPrecondition as problem:
    print(problem)  # All run it already.
