from pathlib import Path

from milonga.client import Client
from milonga.v1 import projects_pb2

hub = Client()

# %% ListRuns
for run in hub.runs.list_runs("digits"):
    print(run.name, projects_pb2.RunState.Name(run.state), run.reason, run.outcome)

# %% ApproveRun, RefuseRun
for run in hub.runs.list_runs("digits"):
    if run.state == projects_pb2.RUN_STATE_AWAITING_APPROVAL:
        if run.trigger == projects_pb2.TRIGGER_NEW_LABELS:
            hub.runs.approve_run(run.name)
        else:
            hub.runs.refuse_run(run.name)

# %% StartRun
run = hub.runs.start_run("digits", reason="a new camera", request_id="camera-2026")

# %% CancelRun, ResumeRun
hub.runs.cancel_run(run.name)
hub.runs.resume_run(run.name)

# %% GetRun
for stage in hub.runs.get_run(run.name).stages:
    print(stage.name, projects_pb2.StageState.Name(stage.state), stage.progress, stage.message)

# %% WatchRun
for run in hub.runs.watch_run("projects/digits/runs/1"):
    print([f"{stage.name} {stage.progress:.0%}" for stage in run.stages])
print(run.outcome or run.error)

# %% ListCandidates
for candidate in hub.runs.list_candidates("projects/digits/runs/1"):
    if candidate.chosen:
        print(candidate.device_type, candidate.description, candidate.accuracy, candidate.measured_ms)

# %% DownloadRun
with Path("run.zip").open("wb") as file:
    file.writelines(hub.runs.download_run("projects/digits/runs/1"))
