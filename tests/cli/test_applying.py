"""A fleet's files, from a folder or a git repository, are what the hub holds afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.cli.test_verbs import _write_pictures

PROJECT = {"kind": "Project", "name": "mine", "spec": {"dataset": "mine"}}
RULE = {"kind": "AlertRule", "name": "hot", "spec": {"watch": "TEMPERATURE", "threshold": 80}}


@pytest.fixture
def folder(new: Cli, tmp_path: Path) -> Path:
    """Return fleet_configs with a project whose pictures are there, a rule, and a file that is neither."""
    new("datasets", "import", str(_write_pictures(tmp_path)), "--name", "mine")
    made = tmp_path / "repository" / "fleet_configs"
    for name, content in (("projects/mine", PROJECT), ("alerts/hot", RULE), ("device_types/x", {"kind": "DeviceType"})):
        path = made / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return made


def _git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "ana@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **who})
    return done.stdout.strip()


def _committed(folder: Path) -> str:
    repository = folder.parent
    if not (repository / ".git").exists():
        _git(repository, "init", "--quiet")
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "-m", "As reviewed")
    return f"file://{repository}"


def _applied(said: Any) -> dict[str, int]:
    return {f"{one['kind']} {one['name']}": len(one["changes"]) for one in json.loads(said.out)["applied"]}


def test_a_folder_is_applied_whole(new: Cli, folder: Path) -> None:
    planned = new("diff", "-f", str(folder), "--exit-code", "--json")
    assert planned.code == 10 and set(_applied(planned)) == {"Project mine", "AlertRule hot"}
    assert new("projects", "show", "mine").code == 3
    done = new("apply", "-f", str(folder))
    assert (done.code, done.err) == (0, "") and "projects/mine/runs/1 started" in done.out
    again = new("apply", "-f", str(folder), "--exit-code", "--json")
    assert again.code == 0 and set(_applied(again).values()) == {0}


def test_a_commit_is_applied_and_named(new: Cli, folder: Path) -> None:
    url = _committed(folder)
    commit = _git(folder.parent, "rev-parse", "HEAD")
    plan = new("diff", "--git", url, "--markdown")
    assert plan.out.startswith(f"### Milonga: 2 changes at `{commit[:12]}`")
    assert "**Project mine** (fleet_configs/projects/mine.yaml)" in plan.out
    assert f"mine would change (milonga apply --git {url})" in " ".join(new("diff", "--git", url).out.split())
    assert f"Commit {commit[:12]}" in new("apply", "--git", url, "--no-run").out
    assert "### Milonga: no changes" in new("diff", "--git", url, "--markdown").out


def test_a_branch_and_an_older_commit_can_be_named(new: Cli, folder: Path) -> None:
    url = _committed(folder)
    first = _git(folder.parent, "rev-parse", "HEAD")
    (folder / "projects" / "mine.yaml").write_text(
        yaml.safe_dump({**PROJECT, "spec": {"dataset": "mine", "selector": "site=busan"}}), encoding="utf-8"
    )
    _committed(folder)
    _git(folder.parent, "branch", "next")
    assert new("apply", "--git", url, "--ref", "next", "--no-run").code == 0
    assert new.hub.projects.get("mine").spec.selector == "site=busan"
    assert new("apply", "--git", url, "--ref", first, "--no-run").code == 0
    assert new.hub.projects.get("mine").spec.selector == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--ref", "nowhere"], 4, "at nowhere is refused or not there: fatal: couldn't find remote ref nowhere"),
        (["--path", "else"], 4, "there is no else"),
        (["--path", "../.."], 4, "there is no ../.."),
        (["--signed"], 4, "the signature of commit"),
        (["--signers", "nowhere"], 4, "there is no file nowhere with allowed signers"),
        (["-f", "x.yaml"], 2, "not both"),
    ],
)
def test_what_cannot_be_had_of_a_repository_is_named(
    new: Cli, folder: Path, arguments: list[str], code: int, said: str
) -> None:
    refused = new("apply", "--git", _committed(folder), *arguments)
    assert refused.code == code and said in refused.err
    assert new("projects", "show", "mine").code == 3


def _key(folder: Path, name: str) -> Path:
    """Return the public half of a new SSH key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
    return folder / f"{name}.pub"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="signs commits with ssh-keygen (openssh-client)")
def test_only_commits_of_named_signers_are_taken(new: Cli, folder: Path, tmp_path: Path) -> None:
    ana, bob = _key(tmp_path, "ana"), _key(tmp_path, "bob")
    signers = tmp_path / "signers"
    signers.write_text(f"ana@example.com {ana.read_text()}", encoding="utf-8")
    url = _committed(folder)

    def applied_as_signed_by(key: Path) -> Any:
        signed = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={key}", "commit", "--quiet", "--amend", "-S"]
        _git(folder.parent, *signed, "--no-edit")
        return new("apply", "--git", url, "--no-run", "--signers", str(signers))

    stranger = applied_as_signed_by(bob)
    assert stranger.code == 4 and "the signature of commit" in stranger.err
    assert new("projects", "show", "mine").code == 3
    assert applied_as_signed_by(ana).code == 0 and new("projects", "show", "mine").code == 0


def test_nothing_is_sent_where_one_file_is_wrong(new: Cli, folder: Path) -> None:
    (folder / "alerts" / "wrong.yaml").write_text(yaml.safe_dump({**RULE, "name": "z", "spec": {"wach": 1}}))
    refused = new("apply", "-f", str(folder))
    assert refused.code == 4 and "wrong.yaml" in refused.err
    assert new("projects", "show", "mine").code == 3


@pytest.mark.parametrize(("key", "value"), [("selector", "site=```"), ("selektor", "site=busan")])
def test_what_is_refused_is_named_by_its_place_in_the_repository_and_told_in_a_comment(
    new: Cli, folder: Path, key: str, value: str
) -> None:
    (folder / "projects" / "mine.yaml").write_text(
        yaml.safe_dump({**PROJECT, "spec": {"dataset": "mine", key: value}}), encoding="utf-8"
    )
    (folder / "alerts" / "channel.yaml").write_text(
        yaml.safe_dump(
            {
                "kind": "AlertChannel",
                "name": "chat",
                "spec": {"webhook": {"url": "http://x.example", "secret": "x" * 32}},
            }
        )
    )
    url = _committed(folder)
    plan = new("diff", "--git", url, "--markdown")
    assert plan.code == 4 and "fleet_configs/projects/mine.yaml:5: " in plan.err and "milonga-git-" not in plan.err
    assert plan.out.startswith("### Milonga: these files are refused at `") and "mine.yaml:5: " in plan.out
    # What a file says closes no code block of the comment early.
    assert plan.out.count("````") == (2 if "```" in value else 0)
    # The channel comes first, and is not there all the same: the hub saw all of it before.
    assert new("apply", "--git", url).code == 4 and "chat" not in new("alerts", "channels").out


def test_a_name_that_two_files_have_is_named(new: Cli, folder: Path) -> None:
    (folder / "projects" / "other.yaml").write_text(yaml.safe_dump(PROJECT), encoding="utf-8")
    refused = new("apply", "-f", str(folder))
    assert refused.code == 4 and "there more than once" in refused.err


def test_a_file_may_hold_several_documents_and_each_error_names_its_line(new: Cli, folder: Path) -> None:
    both = folder / "both.yaml"
    both.write_text(yaml.safe_dump_all([None, RULE, PROJECT], explicit_start=True), encoding="utf-8")
    planned = new("diff", "-f", str(both), "--json")
    assert [f"{one['kind']} {one['name']}" for one in json.loads(planned.out)["applied"]] == [
        "Project mine",
        "AlertRule hot",
    ]
    both.write_text(
        "---\n" + yaml.safe_dump_all([RULE, {**RULE, "name": "cold", "spec": {"watch": "SUN"}}]), encoding="utf-8"
    )
    refused = new("apply", "-f", str(both))
    line = both.read_text(encoding="utf-8").splitlines().index("  watch: SUN") + 1
    assert refused.code != 0 and f"both.yaml:{line}:" in refused.err
    both.write_text(yaml.safe_dump_all([RULE, RULE]), encoding="utf-8")
    assert "AlertRule hot is there more than once" in new("apply", "-f", str(both)).err


def test_links_out_of_the_folder_are_not_followed(new: Cli, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text(yaml.safe_dump({**PROJECT, "name": "secret"}), encoding="utf-8")
    (folder / "projects" / "linked.yaml").symlink_to(secret)
    assert "Project secret" not in _applied(new("diff", "-f", str(folder), "--json"))


@pytest.mark.parametrize("kind", ["Project", "AlertRule", "AlertChannel", "DeviceType", "Simulation"])
def test_editors_get_a_schema_that_the_examples_hold(new: Cli, kind: str) -> None:
    schema = new("schema", kind).json
    assert schema["properties"]["kind"]["const"] == kind
    known = set(schema["properties"]["spec"]["properties"])
    examples = Path(__file__).parents[2] / "fleet_configs"
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in examples.rglob("*.yaml")]
    of_kind = [each for each in found if each["kind"] == kind]
    assert of_kind and all(set(each["spec"]) <= known for each in of_kind)
    assert json.dumps(schema)


def test_an_unknown_kind_is_named(new: Cli) -> None:
    refused = new("schema", "Dance")
    assert refused.code == 2 and "AlertChannel" in refused.err
