"""The verbs that work on any models, with or without a recipe: merge, compress, score, judge, gate, repair."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retain.errors import UsageError
from retain_pipelines.cli.common import Json, Out, Set, emit, flags, for_ci, quiet


def merge(
    base: Annotated[str, typer.Option(help="Base model: folder or URI.")],
    adapter: Annotated[list[str], typer.Option(help="Adapter folder, or FOLDER=WEIGHT (again for more).")],
    method: Annotated[str, typer.Option(help="linear, ties, dare, slerp")] = "linear",
    strength: Annotated[
        float, typer.Option(help="Factor on the whole change; below 1 goes back towards the base.")
    ] = 1.0,
    overrides: Set = None,
    out: Out = Path("out/model"),
    json: Json = False,
) -> None:
    """Write base + adapters as one model, with the proof that it is that (out/model)."""
    from retain.merge.door import run_many

    settings = {"method": method, "strength": strength, **flags(overrides, "merge.")}
    result = quiet(json, run_many, settings, _pinned(base), [_weighted(text) for text in adapter], str(out))
    _emit(result, json)


def compress(
    model: Annotated[Path, typer.Option(help="Folder written by merge.")] = Path("out/model"),
    method: Annotated[str, typer.Option(help="magnitude, 2:4, int8, nf4, gguf")] = "int8",
    overrides: Set = None,
    out: Out = Path("out/compressed"),
    json: Json = False,
) -> None:
    """Make a tuned model smaller: a new candidate, to be scored and gated again (out/compressed)."""
    from retain.compress.door import run

    result = quiet(json, run, {"method": method, **flags(overrides, "compress.")}, str(model), str(out))
    _emit(result, json)


def _weighted(text: str) -> tuple[str, float]:
    """``FOLDER`` or ``FOLDER=0.7``; a folder's own name may hold a ``=``."""
    if Path(text).exists():
        return text, 1.0
    folder, mark, weight = text.rpartition("=")
    try:
        return (folder, float(weight)) if mark else (text, 1.0)
    except ValueError:
        raise UsageError("--adapter takes FOLDER or FOLDER=WEIGHT", got=text, expected="finance=0.7") from None


def score(
    model: Annotated[str, typer.Option(help="Model folder or URI.")],
    tasks: Annotated[str, typer.Option(help="lm-eval tasks, groups or YAML files, separated by commas.")] = "core",
    baseline: Annotated[str, typer.Option(help="A second model, scored on the same items (out/base).")] = "",
    champion: Annotated[str, typer.Option(help="The model in service, scored on the same items (out/champion).")] = "",
    adapter: Annotated[
        str,
        typer.Option(
            help="Score the model with this adapter in it, in one load with the model itself (out/base) unless there is another baseline: a preview, for no gate."
        ),
    ] = "",
    include_path: Annotated[
        list[Path] | None, typer.Option(help="Folder with task YAML files of your own (again for more).")
    ] = None,
    num_fewshot: Annotated[
        int, typer.Option(help="Solved examples before each item; -1 keeps the tasks' own number.")
    ] = -1,
    limit: Annotated[int, typer.Option(help="Items of each task; 0 takes all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bf16, fp16, fp32")] = "auto",
    dataset: Annotated[
        str, typer.Option(help="Folder written by validate, whose test rows measure the target; empty: none.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Take all settings of the scorer from this recipe instead.")] = "",
    overrides: Set = None,
    out: Out = Path("out"),
    json: Json = False,
) -> None:
    """Score a model and those it is compared with, item by item (out/candidate, out/base, out/champion).

    With a recipe whose gate has 4 looks, scoring ends as soon as the gate's rule has decided.
    """
    from retain.resolve.door import score_settings
    from retain.resolve.recipe import load
    from retain.score.door import run

    spec = {"num_fewshot": "task" if num_fewshot < 0 else num_fewshot, "limit": limit}
    settings: dict[str, Any] = {
        "tasks": [{"name": name.strip(), **spec} for name in tasks.split(",") if name.strip()], "device": device, "dtype": dtype,
        "include_path": [str(path.absolute()) for path in include_path or []], **flags(overrides, "score."),
    }  # fmt: skip
    how: dict[str, Any] = {}
    if recipe:
        loaded = load(recipe, overrides)
        settings = score_settings(loaded).as_parameter()
        how = {"policy": loaded.gate.as_parameter(), "baseline": str(out / "base")} if baseline else {}
    results = {}
    if adapter:
        if champion:
            raise UsageError("a preview is compared with a base, not with the model in service", got=champion, fix="leave --champion out, or merge the adapter first")  # fmt: skip
        baseline = "" if baseline == model else baseline
        results = _preview(settings, model, adapter, dataset, out, json, alone=bool(baseline))
    for name, uri in (("base", baseline), ("champion", champion), ("candidate", "" if adapter else model)):
        if uri:
            results[name] = quiet(
                json,
                run,
                settings,
                _pinned(baseline or uri),
                str(_folder(uri)),
                dataset,
                str(out / name),
                str(out / f"{name}-metrics.json"),
                name,
                **(how if name == "candidate" else {}),
            )
            how |= {"champion": str(out / "champion")} if how and name == "champion" else {}
    _emit(results, json)


def _preview(
    settings: dict[str, Any], model: str, adapter: str, dataset: str, out: Path, json: bool, *, alone: bool
) -> dict[str, Any]:
    """The model's scores with the adapter in it, and its own beside them unless ``alone``."""
    from retain.score.door import preview

    base = "" if alone else str(out / "base")
    return dict(quiet(json, preview, settings, str(_folder(model)), adapter, dataset, base, str(out / "candidate")))


def judge(
    base: Annotated[Path, typer.Option(help="Scores of the baseline (written by score).")] = Path("out/base"),
    candidate: Annotated[Path, typer.Option(help="Scores of the candidate.")] = Path("out/candidate"),
    tasks: Annotated[
        str,
        typer.Option(help="Benchmarks whose generated answers are compared, separated by commas; target: test rows."),
    ] = "open",
    endpoint: Annotated[
        str, typer.Option(help="OpenAI-compatible address; its key is read from RETAIN_JUDGE_API_KEY.")
    ] = "",
    model: Annotated[str, typer.Option(help="Name of the judging model there.")] = "",
    dataset: Annotated[str, typer.Option(help="Folder written by validate, where test rows are judged.")] = "",
    recipe: Annotated[str, typer.Option(help="Take the judge's settings from this recipe instead.")] = "",
    overrides: Set = None,
    out: Out = Path("out/judged"),
    json: Json = False,
) -> None:
    """Let a language model compare both models' answers; scores for the gate with win rates in them (out/judged)."""
    from retain.judge.door import run
    from retain.resolve.recipe import load

    named = {"tasks": tasks, "endpoint": endpoint, "model": model}
    settings = load(recipe, overrides).score.judge.as_parameter() if recipe else {**named, **flags(overrides, "score.judge.")}  # fmt: skip
    folders = (base, candidate, out / "base", out / "candidate", out / "judge.html")
    _emit(quiet(json, run, {"judge": settings}, *map(str, folders), dataset), json)


def gate(
    base: Annotated[Path, typer.Option(help="Scores of the baseline (written by score).")] = Path("out/base"),
    candidate: Annotated[Path, typer.Option(help="Scores of the candidate.")] = Path("out/candidate"),
    recipe: Annotated[
        str, typer.Option(help="Recipe whose gate section is the policy; empty: the defaults, without a target.")
    ] = "",
    overrides: Set = None,
    champion: Annotated[str, typer.Option(help="Scores of the model in service, in a retraining; empty: none.")] = "",
    waivers: Annotated[
        str, typer.Option(help="File of waivers beside those in the register (retain waive --file).")
    ] = "",
    evidence: Annotated[str, typer.Option(help="Decide again from this evidence.json alone; no scores are read.")] = "",
    junit: Annotated[str, typer.Option(help="Write a JUnit XML file for a CI system.")] = "",
    comment: Annotated[str, typer.Option(help="Write the table as Markdown, for a comment on a merge request.")] = "",
    data: Annotated[
        str,
        typer.Option(
            help="Files, URIs or digests of the rows that the candidate learned, separated by commas: attempts are counted by them. Empty: the recipe's."
        ),
    ] = "",
    first: Annotated[str, typer.Option(help="Verdict folder that a repair followed: this is its next attempt.")] = "",
    annotations: Annotated[bool, typer.Option("--annotations", help="Print one workflow annotation a reason.")] = False,
    out: Out = Path("out/verdict"),
    json: Json = False,
) -> None:
    """Decide whether the candidate may be published; ends with the verdict's exit code (out/verdict)."""
    from retain.artifacts import read_json
    from retain.gate.summary import summary

    if evidence:
        from retain.gate.evidence import judge_evidence

        verdict = judge_evidence(Path(evidence))
        _emit(verdict.as_dict(), json, summary(verdict))
        for_ci(verdict.as_dict(), junit, comment, annotations)
        raise typer.Exit(int(verdict.exit_code))
    from retain.gate.door import run
    from retain.resolve.work import data_of

    policy, learned = _policy(recipe, overrides)
    quiet(
        json,
        run,
        policy,
        str(base),
        str(candidate),
        str(out),
        str(out / "report.html"),
        data_of(data) or learned,
        waivers,
        champion,
        first,
    )
    value = read_json(out / "verdict.json", schema="retain.verdict/1")
    _emit(value, json)
    for_ci(value, junit, comment, annotations)
    raise typer.Exit(int(value["exit_code"]))


def repair(
    base: Annotated[str, typer.Option(help="Base model: folder or URI.")],
    adapter: Annotated[Path, typer.Option(help="Folder written by train.")] = Path("out/adapter"),
    model: Annotated[Path, typer.Option(help="The merged model that the gate refused.")] = Path("out/model"),
    base_scores: Annotated[Path, typer.Option(help="Scores of the base.")] = Path("out/base"),
    verdict: Annotated[Path, typer.Option(help="Folder written by gate, with gate.on_fail: repair.")] = Path(
        "out/verdict"
    ),
    dataset: Annotated[str, typer.Option(help="Folder written by validate, whose test rows measure the target.")] = "",
    overrides: Set = None,
    out: Out = Path("out/repaired"),
    json: Json = False,
) -> None:
    """Weaken a refused change until it should pass, chosen on items set apart, and merge it again (out/repaired/model)."""
    from retain.artifacts import read_json
    from retain.repair.door import RETRY, run

    given = flags(overrides, "")
    result = quiet(
        json, run, given.get("repair", {}), given.get("merge", {}), _pinned(base), str(adapter), str(model), str(verdict), str(base_scores),
        str(out / "model"), str(out), str(out / "report.html"), dataset=dataset,
    )  # fmt: skip
    told = read_json(out / "repair.json", schema="retain.repair/1")
    _emit({"next": result, **told}, json)
    if result != RETRY:
        raise typer.Exit(int(read_json(verdict / "verdict.json", schema="retain.verdict/1")["exit_code"]))


def _policy(recipe: str, overrides: list[str] | None) -> tuple[dict[str, Any], str]:
    """(policy, digest of the target data): what a pipeline run of the same recipe counts its attempts by."""
    from retain.resolve.recipe import load

    if recipe:
        from retain.resolve.work import pinned_sources, target_data

        loaded = load(recipe, overrides)
        return loaded.gate.as_parameter(), target_data(pinned_sources(loaded))
    from retain.config import parse
    from retain.gate.config import GatePolicy
    from retain.resolve.settings import merge as lay_over

    values = lay_over({"target": {"rule": "none"}}, flags(overrides, "gate."))
    return parse(GatePolicy, values, where="gate").as_parameter(), ""


def _pinned(uri: str) -> dict[str, str]:
    from retain import uris
    from retain.tracking import home

    _, digest = uris.resolve_base(uri, "", home() / "bases")
    return {"uri": uri, "revision": "", "digest": digest}


def _folder(uri: str) -> Path:
    from retain import uris
    from retain.tracking import home

    return uris.resolve_base(uri, "", home() / "bases")[0]


def _emit(value: Any, json: bool, text: str = "") -> None:

    if json or text:
        emit(value, json, text)


VERBS: dict[Callable[..., None], str] = {
    merge: "retain merge --base base --adapter finance=0.7 --adapter legal=0.3 --out model",
    compress: "retain compress --model out/model --method 2:4 --out out/sparse",
    score: "retain score --model out/model --tasks core --limit 100",
    judge: "retain judge --tasks open --endpoint http://127.0.0.1:8000/v1 --model judge --set price_per_1k_input=0.001",
    repair: "retain repair --base base --adapter out/adapter --model out/model --verdict out/verdict --dataset out/dataset",
    gate: "retain gate --base out/base --candidate out/candidate --set macro_margin_points=2",
}
