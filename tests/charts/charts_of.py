"""Where the chart and its examples lie, and what is in a manifest."""

from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "retain"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
Manifest = dict[str, Any]
POD_OWNERS = {"Deployment", "StatefulSet", "Job"}


def example(name: str) -> dict[str, Any]:
    """Values of an example file; ``defaults`` is the chart as it comes."""
    return {} if name == "defaults" else yaml.safe_load(EXAMPLES[name].read_text(encoding="utf-8"))


def documents(rendered: dict[str, str]) -> list[Manifest]:
    return [
        found for path, text in sorted(rendered.items()) if path.endswith(".yaml")
        for found in yaml.safe_load_all(text) if found
    ]  # fmt: skip


def pod_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The pod spec in a manifest, wherever its kind keeps it; None where there is none."""
    kind, spec = manifest["kind"], manifest.get("spec", {})
    if kind == "Pod":
        return spec
    if kind in POD_OWNERS:
        return spec["template"]["spec"]
    if kind == "InferenceService":
        own = {"labels", "minReplicas", "maxReplicas"}
        return {key: value for key, value in spec["predictor"].items() if key not in own}
    if kind == "TrainingRuntime":
        return spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return None


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return spec.get("initContainers", []) + spec["containers"]
