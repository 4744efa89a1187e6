"""The manifests of deploy/kubernetes: valid, and true to the server and its image. Nothing here needs a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentsrv.api.routes import OPERATIONS
from agentsrv.config import Config, read_settings

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
FLEETS = ("base", "overlays/shared-workspace")
SETTINGS = {field.metadata["name"] for field in fields(Config) if field.metadata}
ACCESS_MODES = {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@cache
def rendered(directory: str) -> str:
    kubectl = shutil.which("kubectl") or str(Path(sys.executable).parent / "kubectl")
    command = [kubectl, "kustomize", str(KUBERNETES / directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def objects(directory: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(rendered(directory)) if one]


def one(directory: str, kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects(directory) if o["kind"] == kind and re.match(name, o["metadata"]["name"])]
    return found


def pods(directory: str) -> Iterator[dict[str, Any]]:
    """The specs of all pods that the objects make."""
    for made in objects(directory):
        template = made.get("spec", {}).get("template") or made.get("spec", {}).get("podTemplate")
        if template is not None:
            yield template["spec"]


def server(directory: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [box for pod in pods(directory) for box in pod["containers"]]
    return next(box for box in found if box["name"] == "agentsrv")


def environment(directory: str, pod: str, address: str) -> dict[str, str]:
    """What the server in this pod gets: of the config map, of the container, of the pod."""
    by_field = {"metadata.name": pod, "status.podIP": address}
    found = dict(one(directory, "ConfigMap", "agentsrv")["data"])
    for variable in server(directory)["env"]:
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = by_field[source] if source else variable["value"]
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
    return found


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("directory", FLEETS)
def test_fleets_are_valid(directory: str, version: str, tmp_path: Path) -> None:
    """Strictly, in several versions: no field that Kubernetes does not know."""
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(directory))
    program = str(Path(sys.executable).parent / "kubernetes-validate")
    command = [program, "--strict", "--no-warn", "-k", version, str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert 0 == answer.returncode, answer.stdout + answer.stderr


@pytest.mark.parametrize("directory", [*FLEETS, "tenants"])
def test_values_that_no_schema_checks(directory: str) -> None:
    """Access modes, policies and kinds of probes are words: a wrong one is noticed by the cluster only."""
    modes = set(re.findall(r"^ +- (Read\w+)$", rendered(directory), re.MULTILINE))
    retained = [o.get("spec", {}).get("persistentVolumeClaimRetentionPolicy") for o in objects(directory)]

    assert modes <= ACCESS_MODES
    assert "ReadWriteOncePod" in modes
    assert {"whenDeleted": "Retain", "whenScaled": "Retain"} in retained or directory == "tenants"
    assert {"Parallel", None} >= {o.get("spec", {}).get("podManagementPolicy") for o in objects(directory)}
    for pod in pods(directory):
        for toleration in pod.get("tolerations", []):
            assert ("Exists", "NoExecute") == (toleration["operator"], toleration["effect"])


@pytest.mark.parametrize("directory", [*FLEETS, "tenants"])
def test_probes_ask_what_answers_without_a_key(directory: str) -> None:
    """A kubelet sends none."""
    public = {op.path for op in OPERATIONS if op.is_public and op.method == "GET"}
    probes = [value for key, value in server(directory).items() if key.endswith("Probe")]

    assert probes
    assert {probe["httpGet"]["path"] for probe in probes} <= public


@pytest.mark.parametrize("directory", [*FLEETS, "tenants"])
def test_pods_are_the_images_user(directory: str) -> None:
    """The uid is that of `appuser`, and the port and the volume are the image's."""
    user = int(re.findall(r"useradd --uid (\d+) [^\\]*appuser", DOCKERFILE)[0])
    (pod,) = [pod for pod in pods(directory) if pod["containers"][0]["name"] == "agentsrv"]
    mounts = [mount["mountPath"] for mount in server(directory)["volumeMounts"]]

    assert (user, user) == (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"])
    assert re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)[0] in mounts
    assert re.search(rf"^EXPOSE {server(directory)['ports'][0]['containerPort']}\b", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("directory", FLEETS)
def test_settings_are_settings(directory: str) -> None:
    """Every variable is one that the server reads, and together they are a server that starts."""
    found = environment(directory, "agentsrv-0", "10.1.2.3")

    assert found.keys() - {"POD_IP"} <= SETTINGS
    values = read_settings(Config, found)
    assert ("agentsrv-0", "http://10.1.2.3:3000") == (values["server_name"], values["server_url"])
    pod = one(directory, "StatefulSet", r"agentsrv\Z")["spec"]["template"]["spec"]
    grace = values["drain_timeout_s"] + Config.from_env({"API_KEY": "k" * 16}).shutdown_grace_s
    assert grace < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("directory", FLEETS)
def test_homes_are_told_apart_and_given_time(directory: str) -> None:
    """Each pod has a volume of its own that no other mounts, and an hour; a lost node is noticed after a minute."""
    spec = one(directory, "StatefulSet", r"agentsrv\Z")["spec"]
    pod, (claim,) = spec["template"]["spec"], spec["volumeClaimTemplates"]

    assert ("Parallel", ["ReadWriteOncePod"]) == (spec["podManagementPolicy"], claim["spec"]["accessModes"])
    assert (3600, "3500") == (
        pod["terminationGracePeriodSeconds"],
        one(directory, "ConfigMap", "agentsrv")["data"]["DRAIN_TIMEOUT"],
    )
    assert [60, 60] == [toleration["tolerationSeconds"] for toleration in pod["tolerations"]]
    assert ["kubernetes.io/hostname"] == [one["topologyKey"] for one in pod["topologySpreadConstraints"]]
    box = server(directory)
    paths = [box[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")]
    assert ["/health", "/health/ready"] == paths
    assert (
        directory != "base"
        or {"data": "/home/appuser"}.items()
        <= {mount["name"]: mount["mountPath"] for mount in box["volumeMounts"]}.items()
    )


def test_only_servers_reach_redis() -> None:
    """Whoever writes there decides where requests go."""
    (rule,) = one("base", "NetworkPolicy", "agentsrv-redis")["spec"]["ingress"]

    assert [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "agentsrv"}}}] == rule["from"]


def test_peers_are_found_while_they_are_not_ready() -> None:
    """Their sessions are at home there, whatever the load balancer thinks."""
    peers = one("base", "Service", "agentsrv-peers")["spec"]

    assert ("None", True) == (peers["clusterIP"], peers["publishNotReadyAddresses"])
    assert 1 == one("base", "PodDisruptionBudget", "agentsrv")["spec"]["maxUnavailable"]


def test_redis_refuses_rather_than_forgets() -> None:
    """`noeviction`, a file, and a volume of its own."""
    redis = one("base", "StatefulSet", "agentsrv-redis")["spec"]
    arguments = " ".join(redis["template"]["spec"]["containers"][0]["args"])

    assert "--appendonly yes" in arguments
    assert "--maxmemory-policy noeviction" in arguments
    assert redis["volumeClaimTemplates"]


def test_shared_workspace_keeps_state_at_home() -> None:
    """The state directory and the database lie on the pod's own volume, never on the shared one."""
    found = environment("overlays/shared-workspace", "agentsrv-0", "10.1.2.3")
    own = {mount["mountPath"]: mount["name"] for mount in server("overlays/shared-workspace")["volumeMounts"]}
    (home,) = [path for path, volume in own.items() if volume == "data"]

    assert "true" == found["WORKSPACE_SHARED"]
    assert Path(found["STATE_DIR"]).is_relative_to(home)
    assert Path(found["DATABASE_PATH"]).is_relative_to(home)
    assert "workspace" == own["/home/appuser"]


def test_tenants_hang_together() -> None:
    """Claim, pool and template name each other, in the version that agent-sandbox serves."""
    template, pool, claim = (
        one("tenants", f"Sandbox{kind}", "") for kind in ("Template", "WarmPool", "Claim")
    )

    assert {"extensions.agents.x-k8s.io/v1beta1"} == {one["apiVersion"] for one in (template, pool, claim)}
    assert template["metadata"]["name"] == pool["spec"]["sandboxTemplateRef"]["name"]
    assert pool["metadata"]["name"] == claim["spec"]["warmPoolRef"]["name"]
    assert pool["spec"]["updateStrategy"]["type"] in {"Recreate", "OnReplenish"}
