"""The network policies as a whole: who reaches whom, computed from what is rendered."""

import pytest
from charts_of import EXAMPLES, pod_spec

SETS = ["defaults", *EXAMPLES]
RUN = {"pipelines.kubeflow.org/v2_component": "true"}


def component(name):
    return {
        "app.kubernetes.io/name": "retain",
        "app.kubernetes.io/instance": "retain",
        "app.kubernetes.io/component": name,
    }


def selects(selector, labels):
    for wanted in selector.get("matchExpressions", []):
        found = labels.get(wanted["key"])
        if (wanted["operator"] == "Exists" and found is None) or (wanted["operator"] == "In" and found not in wanted["values"]):  # fmt: skip
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def side(manifests, labels, direction):
    """(isolated, rules) of a pod with these labels."""
    policies = [
        m["spec"] for m in manifests if m["kind"] == "NetworkPolicy" and selects(m["spec"]["podSelector"], labels)
    ]
    isolating = [p for p in policies if direction.capitalize() in p["policyTypes"]]
    return bool(isolating), [rule for p in isolating for rule in p.get(direction, [])]


def allowed(rules, key, other, port):
    """Does a rule let a pod of this namespace with labels ``other`` through on ``port``?"""
    return any(
        any("podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], other) for peer in rule[key])
        and port in [p["port"] for p in rule.get("ports", [{"port": port}])]
        for rule in rules
    )  # fmt: skip


def reaches(manifests, source, target, port):
    out_closed, out_rules = side(manifests, source, "egress")
    in_closed, in_rules = side(manifests, target, "ingress")
    return (not out_closed or allowed(out_rules, "to", target, port)) and (not in_closed or allowed(in_rules, "from", source, port))  # fmt: skip


@pytest.mark.parametrize("values", SETS)
def test_every_pod_of_the_release_is_closed_both_ways(rendered, values):
    for manifest in [m for m in rendered[values] if pod_spec(m) and m["kind"] not in {"TrainingRuntime"}]:
        labels = manifest["metadata"]["labels"]
        assert side(rendered[values], labels, "ingress")[0], manifest["metadata"]["name"]
        assert side(rendered[values], labels, "egress")[0], manifest["metadata"]["name"]


@pytest.mark.parametrize("values", SETS)
def test_who_reaches_mlflow(rendered, values):
    manifests, server = rendered[values], component("mlflow")
    assert reaches(manifests, RUN, server, 5000)
    assert reaches(manifests, component("test"), server, 5000)
    assert not reaches(manifests, {"app": "stranger"}, server, 5000)
    assert not reaches(manifests, RUN, server, 22)


def test_only_mlflow_reaches_the_database(rendered):
    manifests, database = rendered["defaults"], component("postgres")
    assert reaches(manifests, component("mlflow"), database, 5432)
    for other in (RUN, component("setup"), component("serving"), {"app": "stranger"}):
        assert not reaches(manifests, other, database, 5432)
    assert not side(manifests, database, "egress")[1][1:]  # the name service and nothing else


def test_nodes_of_a_trainjob_reach_each_other_and_mlflow(rendered):
    node = {"jobset.sigs.k8s.io/jobset-name": "train"}
    assert reaches(rendered["production"], node, node, 29500)
    assert reaches(rendered["production"], node, component("mlflow"), 5000)
    assert not reaches(rendered["production"], {"app": "stranger"}, node, 29500)


def test_the_served_model_pulls_from_mlflow_and_answers_its_clients(rendered):
    manifests, model = rendered["production"], component("serving")
    assert reaches(manifests, model, component("mlflow"), 5000)
    peers = [peer for rule in side(manifests, model, "ingress")[1] for peer in rule["from"]]
    names = {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers}
    assert names == {"istio-system", "shop", "monitoring"}


def test_an_air_gapped_cluster_has_no_way_out(rendered):
    blocks = [
        peer["ipBlock"]["cidr"]
        for m in rendered["air-gapped"] if m["kind"] == "NetworkPolicy"
        for rule in m["spec"].get("egress", []) for peer in rule["to"] if "ipBlock" in peer
    ]  # fmt: skip
    assert set(blocks) == {"10.20.0.0/28", "10.0.0.1/32"}
    assert side(rendered["air-gapped"], {"app": "stranger"}, "egress")[0]  # the whole namespace is closed
    assert not side(rendered["defaults"], {"app": "stranger"}, "egress")[0]


def test_all_may_ask_the_name_service(rendered):
    for values, port in {"defaults": 53, "openshift": 5353}.items():
        for labels in (component("mlflow"), component("setup"), component("postgres"), RUN):
            rules = side(rendered[values], labels, "egress")[1]
            assert any(
                {(p["protocol"], p["port"]) for p in rule.get("ports", [])} == {("UDP", port), ("TCP", port)}
                for rule in rules
            )
