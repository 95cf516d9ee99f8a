"""The files for Compose and Kubernetes are what those programs take, by the schemas that packages carry.

The schemas are those of the Compose specification and of Kubernetes' own types; the programs do not run here.
"""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs PyYAML (scripts/setup --dev)")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema (scripts/setup --dev)")
kubernetes = pytest.importorskip(
    "kubernetes_validate", reason="needs kubernetes-validate (scripts/setup --dev)"
)
pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (scripts/setup --dev)")

FOLDER = Path(__file__).parent.parent / "packaging" / "container"
SINCE = "1.29"  # sidecars, init containers that run on, are on by default from this one
COMPOSE = sorted(FOLDER.glob("compose*.yaml"))
MANIFESTS = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def check_compose(found: dict[str, Any]) -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(found)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_is_one(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    check_compose(found)
    tunnel = found["services"]["nconnect"]
    assert set(tunnel.get("secrets", ())) <= set(found.get("secrets", ()))
    named = {
        volume.partition(":")[0] for made in found["services"].values() for volume in made.get("volumes", ())
    }
    assert named == set(found["volumes"])
    assert "nc1-" not in json.dumps(found), "a token is never an argument"
    for name, wrong in (("cap_ad", ["NET_ADMIN"]), ("devices", "/dev/net/tun"), ("restart", ["always"])):
        broken = copy.deepcopy(found)
        broken["services"]["nconnect"][name] = wrong
        with pytest.raises(jsonschema.ValidationError):
            check_compose(broken)


def test_there_are_both_compose_files() -> None:
    assert [path.name for path in COMPOSE] == ["compose.provider.yaml", "compose.yaml"]


@pytest.mark.parametrize("version", [SINCE, kubernetes.latest_version()])
@pytest.mark.parametrize("found", MANIFESTS, ids=lambda found: found["kind"])
def test_a_manifest_is_one(found: dict[str, Any], version: str) -> None:
    kubernetes.validate(found, version, strict=True)


def test_mistakes_in_a_manifest_are_found() -> None:
    (deployment,) = (found for found in MANIFESTS if found["kind"] == "Deployment")
    for name, wrong in (("restartPolice", "Always"), ("restartPolicy", ["Always"]), ("volumeMounts", "tun")):
        broken = copy.deepcopy(deployment)
        broken["spec"]["template"]["spec"]["initContainers"][0][name] = wrong
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(broken, SINCE, strict=True)


def test_what_a_manifest_mounts_is_there() -> None:
    claims = {found["metadata"]["name"] for found in MANIFESTS if found["kind"] == "PersistentVolumeClaim"}
    (deployment,) = (found for found in MANIFESTS if found["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["name"] for made in pod["initContainers"] for mount in made["volumeMounts"]}
    assert mounted == volumes
    claimed = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    wanted = {claim["claimName"] for claim in claimed if claim}
    assert wanted == claims
    assert deployment["spec"]["selector"]["matchLabels"].items() <= (
        deployment["spec"]["template"]["metadata"]["labels"].items()
    )
