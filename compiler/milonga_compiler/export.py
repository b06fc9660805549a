"""Write what serves a bundle in a container, and on Kubernetes: the agent's own serving code, without a hub.

`make test-container` follows the Containerfile line by line in a user-space of Debian's packages. No image was built by Docker or
Podman, and the manifests were not applied.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from milonga_compiler.bundle import verify_bundle
from milonga_compiler.errors import CompilerError

PORT = 8000
# As the agent calls a network that has no name.
UNNAMED = "model"
_TAG_CHARACTERS = 12
# pip extras of milonga-agent; TensorRT and TVM need images of their own.
CONTAINER_ENGINES = ("litert", "ncnn", "onnxruntime", "openvino")
# Any user reads what is copied, whatever the umask of who exported it.
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
_CONTAINERFILE = """\
# Serves {model_version} by the Open Inference Protocol v2, as {name}. Run what follows in this file's folder (docker does, too):
#   pip wheel --no-deps MILONGA/protos MILONGA/agent -w wheels     where MILONGA is Milonga's source
#   podman build -t {image} .
#   podman run --rm -p {port}:{port} {image}
#   curl localhost:{port}/v2/models/{name}
# The makers followed these lines in a user-space of Debian's; the image itself was not built.
FROM docker.io/library/python:3.11-slim
COPY wheels/ /wheels/
# By their files: no package of the same name elsewhere is ever taken for them.
RUN set -- /wheels/milonga_agent-*.whl && pip install --no-cache-dir /wheels/milonga_protos-*.whl "$1[{engine}]"
COPY bundle/ /bundle/
USER 65534
EXPOSE {port}
CMD ["milonga-agent", "serve", "/bundle", "--host", "0.0.0.0", "--port", "{port}"]
"""


def export(bundle: Path, folder: Path, kubernetes: bool, image: str = "") -> list[Path]:
    """Write bundle/ and Containerfile, and kubernetes.json where asked, into a new folder; return what was written.

    `image` is what the image is called where the cluster pulls it from; without one it has the project's name, and a tag of its
    own for each bundle. Raises CompilerError where the bundle is broken, its engine has no container, or the folder has
    something in it.
    """
    found = verify_bundle(bundle)
    manifest, engine = found.manifest, str(found.manifest["engine"])
    if engine not in CONTAINER_ENGINES:
        raise CompilerError(f"there is no container for {engine}; there are for {', '.join(CONTAINER_ENGINES)}")
    if steps := manifest["input"].get("preprocessing"):
        raise CompilerError(
            f"there is no container for a bundle with the pre-processing of a plug-in ({', '.join(steps)})"
        )
    if folder.exists() and any(folder.iterdir()):
        raise CompilerError(f"{folder} has something in it; name a new folder with --output")
    (folder / "wheels").mkdir(parents=True)
    for file in found.files:
        place = folder / "bundle" / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(bundle / file.path), str(place))
    for place in (folder / "bundle").rglob("*"):
        place.chmod(_FOLDER_MODE if place.is_dir() else _FILE_MODE)
    (folder / "bundle").chmod(_FOLDER_MODE)
    name = str(manifest["project"]) or UNNAMED
    image = image or f"{_label(name)}:{found.digest.partition(':')[2][:_TAG_CHARACTERS]}"
    text = _CONTAINERFILE.format(
        model_version=manifest["model_version"] or "a network", name=name, image=image, engine=engine, port=PORT
    )
    written = [folder / "Containerfile"]
    written[0].write_text(text, encoding="utf-8")
    if kubernetes:
        written.append(folder / "kubernetes.json")
        model_bytes = sum(file.size_bytes for file in found.files)
        written[1].write_text(
            json.dumps(_manifests(_label(name), image, model_bytes), indent=2) + "\n", encoding="utf-8"
        )
    return written


def _label(name: str) -> str:
    """Return the name as a DNS label that begins with a letter (RFC 1035), as Kubernetes wants those of Services."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"{UNNAMED}-{label}".strip("-")
    return label[:63].strip("-")


def _manifests(name: str, image: str, model_bytes: int) -> dict[str, Any]:
    """Return a Deployment and a Service as one List: JSON is YAML too, and kubectl takes both."""
    labels = {"app": name}
    # 5 s: who answers a probe shares its core with the network, and one that is late is no reason to end it.
    ready, live = (
        {"httpGet": {"path": f"/v2/health/{name}", "port": PORT}, "timeoutSeconds": 5} for name in ("ready", "live")
    )
    # Python, numpy and an engine take up to 200 MB; a loaded network a few times its file.
    memory = f"{256 + 4 * (model_bytes // (1 << 20) + 1)}Mi"
    container = {
        "name": "serve",
        "image": image,
        "ports": [{"name": "http", "containerPort": PORT}],
        # Engines take long to load on slow machines: three minutes, as agents wait.
        "startupProbe": {**ready, "periodSeconds": 3, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {**live, "periodSeconds": 10},
        # The server computes with a thread for each CPU of the limit.
        "resources": {name: {"cpu": "1", "memory": memory} for name in ("requests", "limits")},
        # What the strictest of Kubernetes' Pod Security Standards asks for, and more: nothing is written to.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "runAsGroup": 65534,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [deployment, service]}
