"""Our own rules for what the chart may ask of a cluster, held against every example."""

import re

import pytest
from charts_of import EXAMPLES, containers, pod_spec

SETS = ["defaults", *EXAMPLES]
TOKEN_NEEDED = {"retain-runs"}  # Argo's executor and KFP's launcher use the API; nothing else does
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY|PRIVATE|CREDENTIAL")
# The profile `restricted` of the Pod Security Standards.
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "projected", "secret", "downwardAPI", "persistentVolumeClaim", "ephemeral", "csi"}  # fmt: skip


@pytest.fixture(params=SETS)
def values(request):
    return request.param


@pytest.fixture
def manifests(rendered, values):
    return rendered[values]


@pytest.fixture
def pods(manifests):
    found = {m["metadata"]["name"]: pod_spec(m) for m in manifests if pod_spec(m)}
    assert len(found) >= 3
    return found


def test_pods_are_restricted(pods):
    for name, pod in pods.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert own["readOnlyRootFilesystem"] is True, container["name"]
            assert not own.get("privileged"), container["name"]
            assert not any("hostPort" in port for port in container.get("ports", [])), container["name"]


def test_nobody_is_root(pods, values):
    for pod in pods.values():
        security = pod["securityContext"]
        if values == "openshift":  # the namespace's range decides; a fixed id would be refused
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)
        else:
            assert min(security["runAsUser"], security["runAsGroup"], security["fsGroup"]) >= 1000


def test_volumes_are_harmless_and_bounded(pods):
    for pod in pods.values():
        for volume in pod.get("volumes", []):
            (kind,) = set(volume) - {"name"}
            assert kind in RESTRICTED_VOLUMES  # no hostPath
            assert kind != "emptyDir" or "sizeLimit" in volume["emptyDir"], volume["name"]


def test_requests_and_limits_everywhere(pods):
    for pod in pods.values():
        for container in containers(pod):
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][side]), container["name"]


def test_images_do_not_float(pods, values):
    images = [container["image"] for pod in pods.values() for container in containers(pod)]
    assert len(images) >= 3
    for image in images:
        if values in ("production", "air-gapped"):
            assert re.search(r"@sha256:[0-9a-f]{64}$", image), image
        else:
            assert re.search(r"@sha256:[0-9a-f]{64}$|:[\w][\w.-]+$", image), image
        assert not image.endswith((":latest", ":main", ":master", ":nightly")), image


def test_an_air_gapped_cluster_pulls_from_its_mirror_only(rendered):
    images = [c["image"] for m in rendered["air-gapped"] if pod_spec(m) for c in containers(pod_spec(m))]
    assert images
    assert all(image.startswith("mirror.internal:5000/ml/") for image in images)


def test_secrets_are_referred_to_and_never_made(manifests, pods):
    assert not [m for m in manifests if m["kind"] == "Secret"]
    for pod in pods.values():
        for variable in [v for container in containers(pod) for v in container.get("env", [])]:
            if SECRET_NAME.search(variable["name"]):
                assert set(variable) == {"name", "valueFrom"}, variable["name"]
                assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]
            assert not re.search(r"//[^/\s]*@", variable.get("value", "")), variable["name"]


def test_tokens_only_where_they_are_needed(manifests, pods):
    accounts = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "ServiceAccount"}
    assert set(accounts) >= {"retain-mlflow", "retain-runs"}
    for name, account in accounts.items():
        assert account["automountServiceAccountToken"] is (name in TOKEN_NEEDED), name
    for name, pod in pods.items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod.get("serviceAccountName", "default") in {*accounts, "default"}, name


def test_every_probe_port_and_account_exists(manifests):
    """Names that one manifest takes from another."""
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    maps = {m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap"}
    outside = {"company-ca", "model-signing", "openshift-service-ca.crt"}  # named by the examples, made by the platform
    for pod in filter(None, map(pod_spec, manifests)):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert "persistentVolumeClaim" not in volume or volume["persistentVolumeClaim"]["claimName"] in claims
            assert "configMap" not in volume or volume["configMap"]["name"] in maps | outside
        for container in containers(pod):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= set(volumes) | {"data"}, container["name"]  # data: the claim of the StatefulSet


def test_rights_are_few(rendered):
    for manifests in rendered.values():
        assert not [m for m in manifests if m["kind"] in {"ClusterRole", "ClusterRoleBinding"}]
        for rule in [r for m in manifests if m["kind"] == "Role" for r in m["rules"]]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert not {"pods/exec", "roles", "rolebindings", "serviceaccounts/token"} & set(rule["resources"])
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]


def test_trainjobs_and_pods_only_with_the_trainer(named):
    def rights(values):
        return {r for rule in named("Role", "retain-runs", values)["rules"] for r in rule["resources"]}

    assert rights({}) == {"workflowtaskresults", "configmaps", "secrets"}
    assert rights({"kfp": {"objectStoreSecret": ""}}) == {"workflowtaskresults", "configmaps"}
    trainer = rights({"trainer": {"enabled": True}})
    assert trainer == {
        "workflowtaskresults",
        "configmaps",
        "secrets",
        "trainjobs",
        "trainjobs/status",
        "pods",
        "pods/log",
    }


def test_no_cron_job(manifests):
    """Recurring runs belong to KFP: one place to pause them, one history."""
    assert not [m for m in manifests if m["kind"] == "CronJob"]


def test_volumes_outlive_the_release(manifests):
    claims = [m for m in manifests if m["kind"] == "PersistentVolumeClaim"]
    assert claims
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for stateful in [m for m in manifests if m["kind"] == "StatefulSet"]:
        assert stateful["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
