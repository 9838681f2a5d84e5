"""Every rendered manifest against the schemas of Kubernetes 1.28 to 1.37, and of the custom resources it uses."""

import functools
import json
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate.utils
import pytest
from charts_of import CHART, EXAMPLES, example, pod_spec
from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime
from kubernetes_validate.utils import SchemaNotFoundError, all_versions, validate

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
SETS = ["defaults", *EXAMPLES]
# Reduced by hand to what the chart writes; the pod inside is held against Kubernetes' own schema.
CUSTOM = {
    json.loads(path.read_text(encoding="utf-8"))["title"]: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "crds").glob("*.json"))
}


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once():
    """The library reads its megabytes again for every manifest."""
    plain = kubernetes_validate.utils.schema_contents
    kubernetes_validate.utils.schema_contents = functools.lru_cache(maxsize=None)(plain)
    yield
    kubernetes_validate.utils.schema_contents = plain


def name_of(manifest):
    return f"{manifest['apiVersion']} {manifest['kind']}"


@pytest.mark.parametrize("values", SETS)
def test_lint_is_clean(values):
    report = helm_python.lint(CHART, example(values), strict=True, namespace="retain", kube_version="v1.28.0")
    assert report["total_charts_linted"] == 1
    assert not report["errors"]
    assert not [message for message in report["messages"] if message["severity"] > 1]


def test_the_schemas_of_all_promised_versions_are_there():
    assert {v.rpartition(".")[0] for v in all_versions()} >= set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(rendered, version):
    plain = [m for manifests in rendered.values() for m in manifests if name_of(m) not in CUSTOM]
    different = {json.dumps(manifest, sort_keys=True): manifest for manifest in plain}  # examples have much in common
    assert len(different) > 50
    for manifest in different.values():
        validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_inside_custom_resources_are_valid(rendered, version):
    custom = [m for m in rendered["production"] if name_of(m) in CUSTOM and pod_spec(m)]
    assert {m["kind"] for m in custom} == {"InferenceService", "TrainingRuntime"}
    for manifest in custom:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inside"}, "spec": pod_spec(manifest)}
        validate(pod, version, strict=True)


def test_custom_resources_are_valid(rendered):
    custom = [m for manifests in rendered.values() for m in manifests if name_of(m) in CUSTOM]
    assert {m["kind"] for m in custom} == {"LocalQueue", "ServiceMonitor", "InferenceService", "TrainingRuntime"}
    for manifest in custom:
        jsonschema.validate(manifest, CUSTOM[name_of(manifest)])


def test_the_training_runtime_is_read_whole_by_kubeflows_own_models(rendered):
    (runtime,) = [m for m in rendered["production"] if m["kind"] == "TrainingRuntime"]
    read = TrainerV1alpha1TrainingRuntime.from_dict(runtime)
    assert read.to_dict() == runtime, "the models drop what they do not know"
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    wrong = {**runtime, "spec": {**runtime["spec"], "template": {"spec": {"replicatedJobs": [{**job, "replicaz": 2}]}}}}
    assert TrainerV1alpha1TrainingRuntime.from_dict(wrong).to_dict() != wrong


def test_no_custom_resource_is_without_a_schema(rendered):
    for manifest in [m for manifests in rendered.values() for m in manifests if name_of(m) not in CUSTOM]:
        assert "." not in manifest["apiVersion"].partition("/")[0] or manifest["apiVersion"].partition("/")[0].endswith(
            "k8s.io"
        )


def test_a_wrong_manifest_is_found(rendered):
    """The check itself works: a key that Kubernetes does not know is refused, a kind it does not know too."""
    (deployment,) = [m for m in rendered["defaults"] if m["kind"] == "Deployment"]
    with pytest.raises(jsonschema.ValidationError):
        validate({**deployment, "spec": {**deployment["spec"], "replica": 1}}, "1.28", strict=True)
    with pytest.raises(SchemaNotFoundError):
        validate({"apiVersion": "apps/v1", "kind": "Deploymint"}, "1.28", strict=True)


def test_defaults_need_nothing_but_kubernetes(rendered):
    assert not [name_of(m) for m in rendered["defaults"] + rendered["minimal"] if name_of(m) in CUSTOM]


@pytest.mark.parametrize("values", SETS)
def test_names_are_unique_and_carry_the_release(rendered, values):
    names = [(m["kind"], m["metadata"]["name"]) for m in rendered[values]]
    assert len(names) == len(set(names)) > 15
    assert all(name.startswith("retain") for _, name in names)
    assert all(m["metadata"]["labels"]["app.kubernetes.io/instance"] == "retain" for m in rendered[values])
