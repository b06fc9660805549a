from pathlib import Path

from milonga.client import Client, FailedPrecondition, NotFound

hub = Client()

# %% ListModels
for model in hub.models.list_models():
    print(model.name, model.latest_version)

# %% ListModelVersions
for version in hub.models.list_model_versions("digits"):
    print(version.number, version.run, version.dataset_version)

# %% GetModelVersion
version = hub.models.get_model_version("models/digits/versions/1")
print(dict(version.accuracies))

# %% DownloadCheckpoint
kind = next(iter(version.subnets))
try:
    with Path("subnet.pt").open("wb") as file:
        file.writelines(hub.models.download_checkpoint(version.name, device_type=kind))
except (FailedPrecondition, NotFound) as problem:
    print(problem)  # Detectors alone have a checkpoint of their family's own.

# %% DownloadNetwork
with Path("network.onnx").open("wb") as file:
    file.writelines(hub.models.download_network(version.name, device_type=kind))

# %% ImportModel
taken = hub.models.import_model(
    "digits",
    Path("model.onnx"),
    file_name="model.onnx",
    classes=["0", "1", "2"],  # In the order of its outputs.
    mean=[0.5, 0.5, 0.5],
    std=[0.25, 0.25, 0.25],
)
print(taken.run.name, "builds it;", *taken.imported.notes)
