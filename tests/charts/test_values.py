"""values.schema.json: typos and wrong types are refused, no secret gets in, and every key moves what is rendered."""

import copy
import functools
import json
import re
import sys
from pathlib import Path

import helm_python
import pytest
import yaml
from charts_of import CHART, EXAMPLES, example

sys.path.insert(0, str(CHART.parent))
import generate

SCHEMA = generate.schema()
KEYS = {".".join(path): node for path, node in generate.keys(SCHEMA, SCHEMA["$defs"])}
LEAVES = {path: node for path, node in KEYS.items() if not generate.children(node)}
A_DIGEST = "sha256:" + "ab" * 32


def nested(path, value):
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def merged(base, over):
    result = copy.deepcopy(base)
    for key, value in over.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value  # fmt: skip
    return result


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"mlfow": {}}, "mlfow"),
        ({"mlflow": {"replicas": 2}}, "replicas"),
        ({"mlflow": {"port": "5000"}}, "/mlflow/port"),
        ({"images": {"cpu": {"tag": "latest"}}}, "/images/cpu/tag"),
        ({"images": {"vllm": {"tag": "nightly"}}}, "/images/vllm/tag"),
        ({"images": {"cpu": {"digest": "sha256:abc"}}}, "/images/cpu/digest"),
        ({"security": {"runAsUser": 0}}, "/security/runAsUser"),
        ({"database": {"secret": {"password": "hunter2"}}}, "password"),
        ({"s3": {"secret": {"value": "x"}}}, "value"),
        ({"s3": {"bucket": "Not_A_Bucket"}}, "/s3/bucket"),
        ({"mlflow": {"env": {"DB_PASSWORD": "x"}}}, "DB_PASSWORD"),
        ({"runs": {"env": {"HF_TOKEN": "x"}}}, "HF_TOKEN"),
        ({"runs": {"home": {"accessMode": "ReadOnlyMany"}}}, "/runs/home/accessMode"),
        ({"mlflow": {"resources": {"limits": {"memory": "lots"}}}}, "/mlflow/resources/limits/memory"),
        ({"mlflow": {"enabled": False}}, "/mlflow/externalUrl"),
        ({"database": {"bundled": {"enabled": False}}}, "/database/external/host"),
        ({"mlflow": {"ingress": {"enabled": True, "host": "a.example.com"}}}, "/mlflow/ingress/tlsSecret"),
        ({"kueue": {"enabled": True}}, "/kueue/clusterQueue"),
        ({"setup": {"schedules": [{"name": "nightly", "cron": "at night", "recipe": {"model": {}}}]}}, "/setup/schedules/0/cron"),
        ({"setup": {"schedules": [{"name": "nightly", "cron": "0 2 * * *"}]}}, "recipe"),
        ({"networkPolicy": {"database": [{"cidr": "10.0.0.0/8", "namespace": "db"}]}}, "/networkPolicy/database/0"),
        ({"networkPolicy": {"dns": [{}]}}, "/networkPolicy/dns/0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_and_named(chart, values, where):
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(where)):
        chart.render(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": {"requireDigests": True}}, "images.cpu.digest"),
        ({"setup": {"upload": {"enabled": True}}}, "images.registry, images.cpu.digest and images.gpu.digest"),
        ({"images": {"postgres": {"tag": ""}}}, "neither tag nor digest"),
        ({"database": {"bundled": {"enabled": False}, "external": {"host": "db", "sslMode": "verify-ca"}}}, "trust.configMap"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_way_out(chart, values, message):
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(message)):
        chart.render(values)


def test_every_object_of_the_schema_is_closed():
    """No object without either named keys only, or a rule for all of them."""
    open_by_intent = {"global", "defaults", "steps", "recipe"}  # Helm's own; checked by retain itself

    def walk(node, name):
        if isinstance(node, dict):
            if node.get("type") == "object" and name not in open_by_intent:
                assert "additionalProperties" in node, name
            for key, child in node.items():
                if key not in {"allOf", "if", "then", "not", "anyOf"}:
                    walk(child, key)

    walk(SCHEMA, "values")


def everything_on():
    """The production example with what it leaves out."""
    return merged(example("production"), {
        "mlflow": {"migrate": True}, "kfp": {"credentialsSecret": "kfp-login"},
        "serving": {"adapters": [{"name": "legal", "model": "legal-adapter"}]},
        "quota": {"enabled": True}, "runs": {"webhook": {"secret": "chat"}, "judge": {"secret": "judge"}},
    })  # fmt: skip


# Keys that only act where another part is off (or on): those values beside them.
BUNDLED = {"database": {"bundled": {"enabled": True}}, "images": {"requireDigests": False}}
BESIDE = {
    "database.bundled": BUNDLED,
    "images.postgres": BUNDLED,
    "images.requireDigests": {"images": {"requireDigests": False, "vllm": {"digest": ""}}},
    "mlflow.externalUrl": {"mlflow": {"enabled": False, "externalUrl": "https://mlflow.example.com"}},
    "mlflow.enabled": {"mlflow": {"externalUrl": "https://mlflow.example.com"}},
    "mlflow.artifacts": {"s3": {"bucket": ""}},
}
FLIPPED = {
    "database.external.sslMode": "require",
    "database.bundled.enabled": False,
    "mlflow.externalUrl": "https://other.example.com",
    "runs.home.existingClaim": "my-claim",
    "setup.schedules": [],
    "networkPolicy.defaultDeny": "namespace",
    "kfp.namespace": "elsewhere",
    "images.cpu": {"digest": A_DIGEST}, "images.gpu": {"digest": A_DIGEST}, "images.vllm": {"digest": A_DIGEST}, "images.postgres": {"tag": "17.0-bookworm"},
    "runs.defaults": {"cpu": "7"}, "runs.steps": {"train": {"cpu": "7"}},
    "quota.hard": {"pods": "7"},
    "runs.secrets": [], "runs.cacheUri": "s3://flipped", "runs.links.kfp": "https://kf.example.com/pipeline", "runs.links.mlflow": "https://ml.example.com",
    "networkPolicy.runs.podLabels": {"more": "labels"},
    "monitoring.serviceMonitor.interval": "7s",
    "setup.retries": 7,
    "runs.pipelineRoot": "s3://flipped",
}  # fmt: skip


def flipped(path, node, now):
    """Another legal value of a key."""
    if path in FLIPPED:
        return FLIPPED[path]
    if "enum" in node:
        return next(choice for choice in node["enum"] if choice != now)
    if node["type"] == "boolean":
        return not now
    if node["type"] == "integer":
        return now + 1
    return {"array": another_list, "object": another_map, "string": another_text}[node["type"]](node)


def another_list(node):
    item = generate.resolved(node["items"], SCHEMA["$defs"])
    if "cidr" in item.get("properties", {}):
        return [{"cidr": "198.51.100.0/24"}]
    if "effect" in item.get("properties", {}):
        return [{"key": "flip"}]
    return [{"name": "other", "model": "other"}] if item["type"] == "object" else ["flipped"]


def another_map(node):
    if "requests" in node.get("properties", {}):
        return {"limits": {"memory": "777Gi"}}
    return {"FLIPPED": "x"}


def another_text(node):
    """The first of these that the key's own pattern takes."""
    texts = ("flipped", "777Gi", "/flipped", "https://flipped.example.com")
    return next(text for text in texts if re.search(node.get("pattern", ""), text))


@pytest.mark.parametrize("path", sorted(LEAVES))
def test_every_key_moves_what_is_rendered(chart, path):
    beside = next((extra for start, extra in BESIDE.items() if path == start or path.startswith(f"{start}.")), {})
    values = merged(everything_on(), beside)
    now = chart.merge_values(values)
    for name in path.split("."):
        now = now[name]
    changed = merged(values, nested(path, flipped(path, LEAVES[path], now)))
    if path == "images.requireDigests":
        with pytest.raises(helm_python.HelmRenderError, match=r"images\.vllm has no digest"):
            chart.render(changed)
    else:
        assert chart.render(changed, name="retain", namespace="retain") != as_it_was(chart, json.dumps(values))


@functools.cache
def as_it_was(chart, values):
    return chart.render(json.loads(values), name="retain", namespace="retain")


def test_values_and_readme_are_written_from_the_schema():
    assert (CHART / "values.yaml").read_text(encoding="utf-8") == generate.values_yaml(SCHEMA)
    page = (CHART / "README.md").read_text(encoding="utf-8")
    assert page == generate.readme(SCHEMA, page)
    assert f"| `{next(iter(LEAVES))}` |" in page


def test_all_keys_are_described_and_have_a_default():
    assert len(LEAVES) > 100
    for path, node in KEYS.items():
        assert node["description"].endswith((".", "`")), path
        assert generate.children(node) or "default" in node, path


def test_defaults_are_those_of_the_schema(chart):
    assert yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")) == chart.values
    assert json.loads(Path(CHART / "values.schema.json").read_text(encoding="utf-8")) == chart.schema


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_say_what_they_need(name):
    text = EXAMPLES[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "# Needed first:" in text
