"""The permissions that doctor checks are those that the manifest grants, for the kinds that the target's client uses."""

import re

import yaml

from torchrelay.core.paths import ROOT
from torchrelay.targets.kubernetes.api import KINDS
from torchrelay.targets.kubernetes.permissions import RULES

MANIFEST = ROOT / "infra" / "kubernetes" / "deployer-role.yaml"


def test_the_manifest_grants_the_permissions_that_doctor_checks() -> None:
    role, binding = yaml.safe_load_all(MANIFEST.read_text())
    granted = [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert granted == [(rule.group, rule.resource, verb) for rule in RULES for verb in rule.verbs]
    assert (role["kind"], binding["kind"]) == ("Role", "RoleBinding"), "a namespace's, never the cluster's"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert "*" not in str(role["rules"])


def resource_of(kind: str) -> str:
    """The plural that the API's addresses contain."""
    stem = KINDS[kind][1].removeprefix("namespaced_").replace("_", "")
    return f"{stem.removesuffix('y')}ies" if stem.endswith("y") else f"{stem}s"


def test_every_kind_of_the_target_has_its_rule() -> None:
    assert {rule.resource for rule in RULES if "/" not in rule.resource} == {resource_of(kind) for kind in KINDS}


def test_every_verb_that_the_target_uses_has_its_rule() -> None:
    """The modules contain kinds as text: `api.get("Pod", ...)`. Server-side apply needs create and patch."""
    needed = {
        "get": ["get"],
        "list": ["list"],
        "apply": ["patch", "create"],
        "create": ["create"],
        "replace": ["update"],
        "delete": ["delete"],
    }
    granted = {(rule.resource, verb) for rule in RULES for verb in rule.verbs}
    calls = 0
    for file in sorted((ROOT / "scripts" / "torchrelay" / "targets" / "kubernetes").glob("*.py")):
        for verb, kind in re.findall(r'\bapi\.(get|list|delete)\("(\w+)"', file.read_text()):
            resource = resource_of(kind)
            assert {(resource, one) for one in needed[verb]} <= granted, (file.name, verb, kind)
            calls += 1
    assert calls > 5
