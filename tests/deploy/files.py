"""What is deployed, as data: the files of deploy/ and the image they start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# Over KUBERNETES.
KUBERNETES_POSTGRES = DEPLOY / "kubernetes-postgres"
# Over KUBERNETES_POSTGRES.
KUBERNETES_HUBS = DEPLOY / "kubernetes-hubs"
CONTAINERFILE = ROOT / "hub" / "Containerfile"
COMPOSE, MOSQUITTO, POSTGRES = (DEPLOY / f"compose{over}.yaml" for over in ("", ".mosquitto", ".postgres"))
# By itself, and what stands before its hubs.
HUBS, BALANCER = DEPLOY / "compose.hubs.yaml", DEPLOY / "haproxy.cfg"
UNIT = DEPLOY / "milonga-hub.service"


class _ComposeLoader(yaml.SafeLoader):
    """Knows the tag by which a later Compose file replaces a list rather than add to it."""


_ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))  # type: ignore[arg-type]


def compose(path: Path) -> dict[str, Any]:
    """Return a Compose file, without regard to what it lies over."""
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _ComposeLoader)
    return loaded


def manifests(folder: Path = KUBERNETES) -> dict[str, dict[str, Any]]:
    """Return what kustomization.yaml applies, as "Kind/name", without regard to what it lies over."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    patches = [each["path"] for each in kustomization.get("patches", [])]
    listed = [name for name in kustomization["resources"] if not name.startswith("..")]
    assert {*listed, *patches, "kustomization.yaml"} == {path.name for path in folder.iterdir()}
    found = [each for name in listed for each in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))]
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in found}
    assert len(named) == len(found)
    return named


def instructions() -> list[tuple[str, str]]:
    """Return the Containerfile's instructions with their arguments, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def instruction(word: str) -> str:
    """Return the arguments of the last instruction of that name, which is the one that holds."""
    return [rest for name, rest in instructions() if name == word][-1]


def health_check() -> list[str]:
    """Return the command by which a container is asked how it is."""
    command: list[str] = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    return command


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(re.findall(r"(\w+)=(\S+)", instruction("ENV")))
