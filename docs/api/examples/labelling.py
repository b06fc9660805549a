from pathlib import Path

from milonga.client import Client
from milonga.v1 import labelling_pb2

hub = Client()

# %% GetLabelling
labelling = hub.labelling.get_labelling("digits")
print(labelling.waiting, "wait,", labelling.done_today, "were done today")

# %% ListSamples, GetSamplePicture
for sample in hub.labelling.list_samples("digits", state=labelling_pb2.SAMPLE_STATE_WAITING):
    shown = hub.labelling.get_sample_picture(sample.name)
    suffix = shown.media_type.partition("/")[2]
    Path(f"{sample.name.rpartition('/')[2]}.{suffix}").write_bytes(shown.picture)

# %% LabelSample
first, second, *_ = hub.labelling.list_samples("digits", state=labelling_pb2.SAMPLE_STATE_WAITING)
hub.labelling.label_sample(first.name, label="1", decided_by="kim", revision=first.revision)

# %% GetSample
for sample in hub.labelling.list_samples("digits", page_size=1):
    for decision in hub.labelling.get_sample(sample.name).history:
        print(decision.by, "said", decision.label, "at", decision.at.ToDatetime())

# %% UndoSample
hub.labelling.undo_sample(first.name, decided_by="kim")

# %% SkipSample
hub.labelling.skip_sample(second.name, decided_by="kim")

# %% AddLabelledSamples
added = hub.labelling.add_labelled_samples("digits")
print(added.added_count, "pictures more in", added.dataset_version)

# %% DiscardSamples
print(hub.labelling.discard_samples("digits"), "pictures are deleted")
