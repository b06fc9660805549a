from milonga.client import Client, InvalidInput
from milonga.v1 import projects_pb2

hub = Client()

# %% ListProjects
for project in hub.projects.list_projects():
    print(project.name, project.spec_generation)

# %% GetProject
project = hub.projects.get_project("digits")
print(project.spec.dataset, [limits.latency_ms for limits in project.spec.limits])

# %% GetProjectUsage
usage = hub.projects.get_project_usage("digits")
print(usage.dataset_bytes + usage.sample_bytes + usage.build_bytes, usage.quota.storage_bytes or "without limit")

# %% GetDueRun
due = hub.projects.get_due_run("digits")
if due.reason:
    print(due.reason, "is held back by", due.held_back_by or "nothing")

# %% ApplyProject
spec = hub.projects.get_project("digits").spec
spec.limits[0].latency_ms = 3.5
try:
    would = hub.projects.apply_project("digits", spec=spec, dry_run=True)
    print(list(would.changes))
    hub.projects.apply_project("digits", spec=spec)
except InvalidInput as problem:
    for violation in problem.violations:
        print(violation.field, violation.description)
print(projects_pb2.Task.Name(spec.task))
