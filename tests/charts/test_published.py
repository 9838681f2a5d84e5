"""The custom resources against the schemas that their makers publish, where somebody has them.

``RETAIN_CRDS`` names a folder of CustomResourceDefinition YAML files (``kubectl get crd -o yaml``, or the projects' releases).
None are kept here: they are other projects' files. What the suite always checks is in test_manifests.py.
"""

import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from retain.train import trainjob

FOLDER = os.environ.get("RETAIN_CRDS", "")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
pytestmark = pytest.mark.skipif(not FOLDER, reason="no published CRDs: RETAIN_CRDS names no folder of them")
WANTED = {"LocalQueue", "ServiceMonitor", "InferenceService", "TrainingRuntime", "TrainJob"}


def strict(node):
    """As the API server reads it with strict field validation: what is not named is refused."""
    if isinstance(node, list):
        return [strict(child) for child in node]
    if not isinstance(node, dict):
        return node
    made = {key: strict(child) for key, child in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    named = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    if named and "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def schemas():
    """(group/version, kind) → the schema of one version of a CRD."""
    found = {}
    for path in sorted(Path(FOLDER).glob("*.yaml")):
        for crd in yaml.load_all(path.read_text(encoding="utf-8"), Loader=LOADER):
            spec = crd["spec"]
            for version in spec["versions"]:
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = version
    return found


def test_every_custom_resource_is_what_its_maker_publishes(rendered, schemas):
    folder = Path("/retain/work/train-1")
    nodes = trainjob.Nodes(nodes=2, processes=8, image="registry.example.com/retain-gpu:0.1.0", runtime="retain-torch")
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": "1"}
    resources = [m for manifests in rendered.values() for m in manifests if m["kind"] in WANTED]
    resources.append(trainjob.manifest(nodes, "train-1", folder, owner))
    assert {m["kind"] for m in resources} == WANTED
    for manifest in resources:
        version = schemas[manifest["apiVersion"], manifest["kind"]]
        assert version["served"], f"{manifest['apiVersion']} {manifest['kind']} is no longer served"
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}  # checked by the API server itself, for every kind
        jsonschema.validate(manifest, schema)


def test_a_wrong_resource_is_found(rendered, schemas):
    (queue,) = {m["metadata"]["name"]: m for m in rendered["production"] if m["kind"] == "LocalQueue"}.values()
    schema = strict(schemas[queue["apiVersion"], "LocalQueue"]["schema"]["openAPIV3Schema"])
    with pytest.raises(jsonschema.ValidationError, match="clusterQeue"):
        jsonschema.validate({**queue, "spec": {"clusterQeue": "gpu"}}, {**schema, "required": []})
