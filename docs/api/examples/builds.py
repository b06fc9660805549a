import json
from pathlib import Path

from milonga.client import Client, FailedPrecondition
from milonga.v1 import models_pb2

hub = Client()
version = "models/digits/versions/1"
chosen = next(build.name for build in hub.builds.list_builds(version) if build.chosen)

# %% ListBuilds
for build in hub.builds.list_builds(version):
    print(build.name, models_pb2.BuildState.Name(build.state), build.accuracy, build.measured_ms)

# %% GetBuild
for gate in hub.builds.get_build(chosen).gates:
    print(gate.name, gate.found, gate.allowed, gate.passed)

# %% StartBuild, CancelBuild
kind = hub.builds.get_build(chosen).device_type
started = hub.builds.start_build(version, device_type=kind, target="openvino/int8")
hub.builds.cancel_build(started.name)

# %% WatchBuild
for build in hub.builds.watch_build(chosen):
    print([stage.message for stage in build.stages])
print(models_pb2.BuildState.Name(build.state))

# %% OverrideBuild
try:
    hub.builds.override_build(chosen, by="kim", reason="half a point less is fine at the gate")
except FailedPrecondition as problem:
    print(problem)  # This one is verified, and needs none.

# %% ChooseBuild
hub.builds.choose_build(chosen)

# %% GetBuildLog
print(hub.builds.get_build_log(chosen))

# %% GetBuildManifest
print(json.loads(hub.builds.get_build_manifest(chosen))["classes"])

# %% DownloadBuild
with Path("bundle.zip").open("wb") as file:
    file.writelines(hub.builds.download_build(chosen))
