"""The ways to run a hub agree with the hub and with each other: ports, paths, settings, users, versions. Nothing is started but a health check."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from milonga_hub.settings import Settings
from milonga_hub.transports.http import create_app, serve
from sqlalchemy import make_url

from tests.deploy import files
from tests.web.filled import Services

PORTS = {Settings.model_fields[f"{name}_port"].default for name in ("http", "grpc", "device", "mqtt")}
# What the hub's process reads beside its settings.
_OTHERS = {"FORWARDED_ALLOW_IPS", "HOME", "PATH", "PYTHONUNBUFFERED"}


def _project(distribution: str) -> dict[str, Any]:
    """Return what pyproject.toml says of one of ours."""
    text = (files.ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def _hub() -> dict[str, Any]:
    """Return the Compose service."""
    service: dict[str, Any] = files.compose(files.COMPOSE)["services"]["hub"]
    return service


def _pod() -> dict[str, Any]:
    spec: dict[str, Any] = files.manifests()["StatefulSet/milonga-hub"]["spec"]["template"]["spec"]
    return spec


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    found: dict[str, Any] = container
    return found


def _compose_postgres() -> dict[str, Any]:
    service: dict[str, Any] = files.compose(files.POSTGRES)["services"]["postgres"]
    return service


def _postgres_pod() -> dict[str, Any]:
    manifests = files.manifests(files.KUBERNETES_POSTGRES)
    spec: dict[str, Any] = manifests["StatefulSet/milonga-database"]["spec"]["template"]["spec"]
    return spec


def _unit(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", files.UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def _published(service: dict[str, Any]) -> set[int]:
    """Return the ports of the host; each leads to the same one inside, as devices are told the hub's own numbers."""
    pairs = [re.sub(r"\$\{[^}]*\}:", "", port).split(":") for port in service["ports"]]
    assert all(outside == inside for outside, inside in pairs)
    return {int(outside) for outside, _ in pairs}


ENVIRONMENTS = {
    "Containerfile": files.image_environment(),
    "compose": _hub()["environment"],
    "compose.mosquitto": files.compose(files.MOSQUITTO)["services"]["hub"]["environment"],
    "compose.hubs": files.compose(files.HUBS)["services"]["hub-1"]["environment"],
    "compose.postgres": files.compose(files.POSTGRES)["services"]["hub"]["environment"],
    "kubernetes": files.manifests()["ConfigMap/milonga-hub"]["data"],
    "systemd": dict(line.split("=", 1) for line in _unit("Environment")),
}


@pytest.mark.parametrize("where", ENVIRONMENTS)
def test_every_variable_is_a_setting_of_the_hub_and_its_value_is_taken(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {f"MILONGA_{name.upper()}" for name in Settings.model_fields}
    assert set(ENVIRONMENTS[where]) <= known | _OTHERS
    for name in known:
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENTS[where].items():
        if name in known:
            # What Compose puts where nothing else is said.
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:[-?](.*)\}", r"\1", value))
    Settings()


def test_what_compose_asks_for_is_explained() -> None:
    written = (files.ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for path in (files.COMPOSE, files.MOSQUITTO, files.POSTGRES, files.HUBS):
        asked = set(re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8")))
        assert asked and {name for name in asked if name not in written} == set()
    arguments = {rest.partition("=")[0] for word, rest in files.instructions() if word == "ARG"}
    assert {name for name in arguments if f"| `{name}` |" not in written} == set()


def test_ports_are_those_of_the_hub_everywhere() -> None:
    assert {int(port) for port in files.instruction("EXPOSE").split()} == PORTS
    assert _published(_hub()) == PORTS
    assert {port["containerPort"] for port in _container()["ports"]} == PORTS
    named = {port["name"]: port["containerPort"] for port in _container()["ports"]}
    services = {name: each["spec"] for name, each in files.manifests().items() if name.startswith("Service/")}
    for port in [port for spec in services.values() for port in spec["ports"]]:
        assert port["port"] == named[port["targetPort"]], "devices are told the hub's own numbers"
    outside = {port["port"] for port in services["Service/milonga-devices"]["ports"]}
    assert outside == PORTS - {Settings.model_fields["http_port"].default}


def test_unencrypted_http_stays_on_the_machine_until_somebody_says_otherwise() -> None:
    assert "${MILONGA_HTTP_ADDRESS:-127.0.0.1}:8080:8080" in files.compose(files.HUBS)["services"]["balancer"]["ports"]
    for path in (files.COMPOSE, files.MOSQUITTO):
        (http,) = [port for port in files.compose(path)["services"]["hub"]["ports"] if port.endswith(":8080")]
        assert http == "${MILONGA_HTTP_ADDRESS:-127.0.0.1}:8080:8080"
    rules = files.manifests()["NetworkPolicy/milonga-hub"]["spec"]["ingress"]
    assert all("from" in rule for rule in rules if any(port["port"] == "http" for port in rule["ports"]))


def test_mosquitto_takes_the_port_of_the_hub_s_own_broker_and_runs_as_who_may_read_its_key() -> None:
    services = files.compose(files.MOSQUITTO)["services"]
    assert _published(services["hub"]) | _published(services["mosquitto"]) == PORTS
    assert services["mosquitto"]["user"] == files.instruction("USER")
    config = Path(services["mosquitto"]["command"][-1])
    for service in services.values():
        (volume,) = service["volumes"]
        assert volume.split(":")[1] == str(config.parent)
    made = next(rest for word, rest in files.instructions() if word == "RUN" and "install -d" in rest)
    assert str(config.parent) in made, "a new volume takes its owner from the image"


def test_data_lies_on_the_volume_and_all_else_is_read_only() -> None:
    home = files.instruction("VOLUME")
    assert files.image_environment()["MILONGA_DATA_DIR"].startswith(f"{home}/")
    assert [volume.split(":")[1] for volume in _hub()["volumes"]] == [home]
    assert _hub()["read_only"]
    container = _container()
    assert container["securityContext"]["readOnlyRootFilesystem"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (claim,) = files.manifests()["StatefulSet/milonga-hub"]["spec"]["volumeClaimTemplates"]
    assert places.pop(claim["metadata"]["name"]) == home
    assert set(places) == {volume["name"] for volume in _pod()["volumes"]}
    assert _unit("StateDirectory") == [Path(home).name]
    assert ENVIRONMENTS["systemd"]["MILONGA_DATA_DIR"] == files.image_environment()["MILONGA_DATA_DIR"]


def test_nobody_is_root_and_no_right_is_left() -> None:
    user, group = (int(number) for number in files.instruction("USER").split(":"))
    pod = _pod()["securityContext"]
    assert user > 0 and pod["runAsNonRoot"]
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (user, group, group)
    assert _container()["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not _pod()["automountServiceAccountToken"]
    services = [_hub(), files.compose(files.MOSQUITTO)["services"]["mosquitto"], _compose_postgres()]
    assert all(each["cap_drop"] == ["ALL"] and each["security_opt"] == ["no-new-privileges:true"] for each in services)
    assert _unit("User") == ["milonga"] and _unit("CapabilityBoundingSet") == [""]


def test_postgresql_is_one_for_the_hub_alone_and_nobody_s_root() -> None:
    compose, pod = _compose_postgres(), _postgres_pod()
    (container,) = pod["containers"]
    assert compose["image"] == container["image"]
    assert compose["user"] == "{runAsUser}:{runAsGroup}".format(**pod["securityContext"]) != "0:0"
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert compose["read_only"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert "ports" not in compose, "nobody outside reaches it"
    manifests = files.manifests(files.KUBERNETES_POSTGRES)
    ((rule,),) = [manifests["NetworkPolicy/milonga-database"]["spec"]["ingress"]]
    assert rule["from"] == [{"podSelector": files.manifests()["StatefulSet/milonga-hub"]["spec"]["selector"]}]
    (volume,) = compose["volumes"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volume.split(":")[1] == places.pop("data")
    assert set(places) == {volume["name"] for volume in pod["volumes"]}


def test_the_hub_finds_postgresql_where_it_is() -> None:
    url = make_url(ENVIRONMENTS["compose.postgres"]["MILONGA_DATABASE_URL"].replace("${", "").replace("}", ""))
    environment = _compose_postgres()["environment"]
    assert url.host == "postgres" and url.database == environment["POSTGRES_DB"] == environment["POSTGRES_USER"]
    patch = yaml.safe_load((files.KUBERNETES_POSTGRES / "hub.yaml").read_text(encoding="utf-8"))
    hub = files.manifests()["StatefulSet/milonga-hub"]
    assert patch["metadata"] == {name: hub["metadata"][name] for name in ("name", "namespace")}
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    (variable,) = patched["env"]
    assert patched["name"] == _container()["name"] and variable["name"] == "MILONGA_DATABASE_URL"
    asked = {variable["valueFrom"]["secretKeyRef"]["key"]}
    (server,) = _postgres_pod()["containers"]
    asked |= {each["valueFrom"]["secretKeyRef"]["key"] for each in server["env"] if "valueFrom" in each}
    written = (files.ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    made = re.search(r"create secret generic milonga-database((?:\\\n|.)*)", written)
    assert made and set(re.findall(r"--from-literal=(\w+)=", made.group(1))) == asked
    service = "Service/milonga-database"
    assert f"@{service.partition('/')[2]}/" in made.group(1) and service in files.manifests(files.KUBERNETES_POSTGRES)


def test_there_is_one_hub_and_services_do_not_speak_into_its_settings() -> None:
    assert files.manifests()["StatefulSet/milonga-hub"]["spec"]["replicas"] == 1
    # A Service milonga-http would set MILONGA_HTTP_PORT=tcp://...
    assert _pod()["enableServiceLinks"] is False


def test_images_have_a_version_and_the_hub_s_is_its_own() -> None:
    ours = f"milonga-hub:{_project('hub')['version']}"
    assert _hub()["image"] == _container()["image"] == ours
    (replaced,) = yaml.safe_load((files.KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    assert f"{replaced['name']}:{replaced['newTag']}" == ours
    foreign = [rest.split(" ")[0] for word, rest in files.instructions() if word == "FROM"]
    foreign += [files.compose(files.MOSQUITTO)["services"]["mosquitto"]["image"], _compose_postgres()["image"]]
    foreign.append(files.compose(files.HUBS)["services"]["balancer"]["image"])
    assert [image for image in foreign if not re.search(r":\d+\.\d+", image)] == []


def test_all_that_the_image_is_built_from_is_in_its_context() -> None:
    copied = [rest.split(" ")[0] for word, rest in files.instructions() if word == "COPY" and "--from" not in rest]
    allowed = re.findall(r"^!(\S+)$", (files.ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(copied) <= set(allowed)
    for folder in copied:
        for path in (files.ROOT / folder).rglob("*"):
            if path.is_symlink():
                target = path.resolve().relative_to(files.ROOT)
                assert target.parts[0] in copied, f"{path} leads to {target}, which the image lacks"
    (context,) = {(files.COMPOSE.parent / _hub()["build"]["context"]).resolve()}
    assert context / _hub()["build"]["dockerfile"] == files.CONTAINERFILE
    arguments = dict(rest.split("=", 1) for word, rest in files.instructions() if word == "ARG")
    for argument, distribution in (("EXTRAS", "hub"), ("ENGINES", "compiler")):
        extras = _project(distribution)["optional-dependencies"]
        assert arguments[argument] and set(arguments[argument].split(",")) <= set(extras)


def test_it_starts_what_is_installed_and_asks_it_where_it_answers() -> None:
    assert json.loads(files.instruction("ENTRYPOINT")) == list(_project("hub")["scripts"]) == ["milonga"]
    assert json.loads(files.instruction("CMD")) == _container()["args"] == ["up"]
    assert _unit("ExecStart") == ["/opt/milonga/bin/milonga up"]
    paths = {name: probe["httpGet"] for name, probe in _container().items() if name.endswith("Probe")}
    assert paths == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


def test_a_container_is_well_while_its_hub_is_ready_and_no_longer(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        app = create_app(Services(tmp_path))
        server, port = await serve(app, "127.0.0.1", 0)
        program, *arguments = files.health_check()
        assert program == "python"

        async def asked() -> int:
            environment = {**os.environ, "MILONGA_HTTP_PORT": str(port)}
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            return await process.wait()

        well = await asked()
        app.state.stopping.set()
        stopping = await asked()
        await server.stop()
        return [well, stopping, await asked()]

    well, *others = asyncio.run(scenario())
    assert well == 0 and all(others)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / files.UNIT.name
    # The program must be there for systemd to be content.
    unit.write_text(
        files.UNIT.read_text(encoding="utf-8").replace("/opt/milonga/bin/milonga", "/bin/true"), encoding="utf-8"
    )
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


ALL_MANIFESTS = {**files.manifests(), **files.manifests(files.KUBERNETES_POSTGRES)}


@pytest.mark.parametrize("name", ALL_MANIFESTS)
def test_kubernetes_takes_each_manifest(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs: pip install --group deploy")
    validate.validate(ALL_MANIFESTS[name], "1.37", strict=True)


def test_several_hubs_have_one_volume_one_database_and_a_broker_that_is_none_of_theirs() -> None:
    manifests = files.manifests(files.KUBERNETES_HUBS)
    patch = yaml.safe_load((files.KUBERNETES_HUBS / "hub.yaml").read_text(encoding="utf-8"))
    hub = files.manifests()["StatefulSet/milonga-hub"]
    assert patch["metadata"] == {name: hub["metadata"][name] for name in ("name", "namespace")}
    assert patch["spec"]["replicas"] > 1 and patch["spec"]["volumeClaimTemplates"] is None
    pod = patch["spec"]["template"]["spec"]
    (volume,), (container,) = pod["volumes"], pod["containers"]
    claim = manifests[f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["name"] in {mount["name"] for mount in _container()["volumeMounts"]}
    assert container["name"] == _container()["name"]
    assert {each["name"]: each["value"] for each in container["env"]}["MILONGA_BROKER"].startswith("mqtts://")
    kustomization = yaml.safe_load((files.KUBERNETES_HUBS / "kustomization.yaml").read_text(encoding="utf-8"))
    assert "../kubernetes-postgres" in kustomization["resources"]


def _hubs() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = files.compose(files.HUBS)["services"]
    return {name: each for name, each in services.items() if name.startswith("hub-")}


def test_several_hubs_of_compose_are_one_hub_twice_with_one_of_all_else() -> None:
    services, alone = files.compose(files.HUBS)["services"], _hub()
    first, second = _hubs().values()
    assert {**first, "hostname": ""} == {**second, "hostname": ""}, "what one has, the other has"
    same = set(alone) - {"environment", "ports", "volumes"}
    assert {name: first[name] for name in same} == {name: alone[name] for name in same}
    over = {**ENVIRONMENTS["compose"], **ENVIRONMENTS["compose.mosquitto"], **ENVIRONMENTS["compose.postgres"]}
    assert first["environment"] == over and set(alone["volumes"]) <= set(first["volumes"])
    assert (
        _published(services["balancer"]) | _published(files.compose(files.MOSQUITTO)["services"]["mosquitto"]) == PORTS
    )
    for name in ("mosquitto", "postgres"):
        extended = services[name]["extends"]
        assert extended["service"] == name and name in files.compose(files.DEPLOY / extended["file"])["services"]
    named = {volume.partition(":")[0] for each in services.values() for volume in each.get("volumes", [])}
    assert {f"./{files.BALANCER.name}", "hub", "broker"} == named


def test_the_balancer_gives_each_port_to_the_same_port_of_each_hub_that_is_ready() -> None:
    text = files.BALANCER.read_text(encoding="utf-8")
    bound = {int(port) for port in re.findall(r"^  bind :(\d+)$", text, re.MULTILINE)}
    assert bound == _published(files.compose(files.HUBS)["services"]["balancer"])
    for port in bound:
        servers = set(re.findall(rf"^  server (\S+) \1:{port}$", text, re.MULTILINE))
        assert servers == set(_hubs()), f"port {port}"
    assert "GET /readyz" in text and f"check port {Settings.model_fields['http_port'].default}" in text


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_haproxy_takes_its_configuration() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", files.BALANCER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which puts files over each other, is not installed"
)
def test_kubectl_makes_two_hubs_of_the_files_that_lie_over_each_other() -> None:
    done = subprocess.run(["kubectl", "kustomize", files.KUBERNETES_HUBS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(done.stdout)}
    hub = made["StatefulSet/milonga-hub"]["spec"]
    (container,) = hub["template"]["spec"]["containers"]
    assert hub["replicas"] == 2 and not hub.get("volumeClaimTemplates")
    assert {"MILONGA_BROKER", "MILONGA_DATABASE_URL"} <= {each["name"] for each in container["env"]}
    assert [each["name"] for each in hub["template"]["spec"]["volumes"] if "persistentVolumeClaim" in each] == ["data"]
    validate = pytest.importorskip("kubernetes_validate", reason="needs: pip install --group deploy")
    for each in made.values():
        validate.validate(each, "1.37", strict=True)
