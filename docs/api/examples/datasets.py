from pathlib import Path

from milonga.client import Client

hub = Client()

# %% ImportDataset
version = hub.datasets.import_dataset("leaves", Path("pictures.zip"))
print(version.name, version.train_count, version.validation_count)
for rejected in version.rejected:
    print(rejected.path, rejected.reason)

# %% GetDataset
print(list(hub.datasets.get_dataset("leaves").classes))

# %% ListDatasets
for dataset in hub.datasets.list_datasets():
    print(dataset.name, dataset.latest_version)

# %% ListDatasetVersions
for version in hub.datasets.list_dataset_versions("leaves"):
    print(version.number, version.digest, dict(version.class_counts))

# %% DownloadDatasetVersion
with Path("leaves.zip").open("wb") as file:
    file.writelines(hub.datasets.download_dataset_version("datasets/leaves/versions/1"))
