"""Write what serves a bundle in a container, and on Kubernetes: the agent's own serving code, without a hub.

The container was not built and the manifests were not applied by the makers: `not verified`.
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
# pip extras of milonga-agent; TensorRT and TVM need images of their own.
_ENGINES = ("litert", "ncnn", "onnxruntime", "openvino")
_CONTAINERFILE = """\
# Serves {model_version} by the Open Inference Protocol v2. Not verified: the makers have not built it.
# First, from Milonga's folder: pip wheel --no-deps ./protos ./agent -w {folder}/wheels
# Then: podman build -t {name} {folder} && podman run -p {port}:{port} {name}
FROM docker.io/library/python:3.11-slim
COPY wheels/ /wheels/
RUN pip install --no-cache-dir --find-links /wheels 'milonga-agent[{engine}]'
COPY bundle/ /bundle/
USER 65534
EXPOSE {port}
CMD ["milonga-agent", "serve", "/bundle", "--host", "0.0.0.0", "--port", "{port}"]
"""


def export(bundle: Path, folder: Path, kubernetes: bool) -> list[Path]:
    """Write bundle/ and Containerfile, and kubernetes.json where asked, into a new folder; return what was written.

    Raises CompilerError where the bundle is broken, its engine has no container, or the folder has something in it.
    """
    found = verify_bundle(bundle)
    manifest, engine = found.manifest, str(found.manifest["engine"])
    if engine not in _ENGINES:
        raise CompilerError(f"there is no container for {engine}; there are for {', '.join(_ENGINES)}")
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
    name = _name(str(manifest["project"]))
    text = _CONTAINERFILE.format(
        model_version=manifest["model_version"] or "a network", folder=folder, name=name, engine=engine, port=PORT
    )
    written = [folder / "Containerfile"]
    written[0].write_text(text, encoding="utf-8")
    if kubernetes:
        written.append(folder / "kubernetes.json")
        model_bytes = sum(file.size_bytes for file in found.files)
        written[1].write_text(json.dumps(_manifests(name, model_bytes), indent=2) + "\n", encoding="utf-8")
    return written


def _name(project: str) -> str:
    """Return the project as a DNS label (RFC 1123), as Kubernetes wants names."""
    return re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:63].strip("-") or "model"


def _manifests(name: str, model_bytes: int) -> dict[str, Any]:
    """Return a Deployment and a Service as one List: JSON is YAML too, and kubectl takes both."""
    labels = {"app": name}
    ready = {"httpGet": {"path": "/v2/health/ready", "port": PORT}}
    # Python, numpy and an engine take up to 200 MB; a loaded network a few times its file.
    memory = f"{256 + 4 * (model_bytes // (1 << 20) + 1)}Mi"
    container = {
        "name": "serve",
        "image": name,
        "ports": [{"name": "http", "containerPort": PORT}],
        # Engines take long to load on slow machines: three minutes, as agents wait.
        "startupProbe": {**ready, "periodSeconds": 3, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": PORT}, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "500m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 65534},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [deployment, service]}
