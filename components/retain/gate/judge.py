"""The decision: scores in, verdict out. Pure; the same in a pipeline, on the command line and from an evidence file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from retain import digest
from retain.errors import PolicyError
from retain.gate.assess import Assessment, Lineup, assess, equal, lineup, tells_something, weights_of
from retain.gate.config import POINT, GatePolicy
from retain.gate.eprocess import alarm, rounds
from retain.gate.looks import alpha_at, boundaries
from retain.gate.pairs import Pairs, Scores, join
from retain.gate.repeat import as_first, check_repeatable
from retain.gate.split import in_look, is_dev
from retain.gate.verdict import Action, Reason, Row, Verdict, Word
from retain.gate.waivers import Waiver

REPAIRABLE = {"macro_margin", "benchmark_drop", "critical_margin"}


@dataclass(frozen=True)
class Against:
    """One baseline: role base or champion, its digest, and the candidate's tasks paired with it."""

    role: str
    digest: str
    tasks: tuple[Pairs, ...]


@dataclass(frozen=True)
class Case:
    """All that a verdict rests on; evidence.json holds exactly this and the policy.

    today: ISO, for waivers. partial: 0, or the number of the look whose items alone are here (a scorer that asks after
    each look passes all items up to it, and stops at the first answer that is not inconclusive). repaired: the candidate
    comes from a repair, which is not repaired again. asked: key of the question in the register of attempts; empty: the
    attempt was not counted there. signals: what general text became (retain.score.signals), where it was measured.
    """

    candidate_digest: str
    baselines: tuple[Against, ...]
    attempt: int = 1
    waivers: tuple[Waiver, ...] = ()
    today: str = ""
    partial: int = 0
    repaired: bool = False
    asked: str = ""
    signals: Mapping[str, float] = field(default_factory=dict)


def judge(
    baseline: Scores, candidate: Scores, policy: GatePolicy, *, champion: Scores | None = None, attempt: int = 1,
    waivers: Sequence[Waiver] = (), today: str = "",
) -> Verdict:  # fmt: skip
    """Verdict on ``candidate`` against ``baseline`` (the original base) and, in a retraining, against ``champion`` too.

    Scores are what artifacts.read_scores returns. IntegrityError (6) where they cannot be compared, PolicyError (2)
    where nothing can be concluded; a closed gate is a verdict, not an error.
    """
    return judge_case(make_case(baseline, candidate, policy, champion=champion, attempt=attempt, waivers=waivers, today=today), policy)  # fmt: skip


def make_case(
    baseline: Scores, candidate: Scores, policy: GatePolicy, *, champion: Scores | None = None, attempt: int = 1,
    waivers: Sequence[Waiver] = (), today: str = "",
) -> Case:  # fmt: skip
    """Join the scores; the baseline that the ordinary margins apply to comes first."""
    sides = ([("champion", champion)] if champion is not None else []) + [("base", baseline)]
    found = tuple(
        Against(role, scores[1]["model_digest"], tuple(join(scores, _repeated(scores, candidate), same_family=policy.same_tokenizer)))
        for role, scores in sides
    )  # fmt: skip
    return Case(
        candidate[1]["model_digest"], found, attempt, tuple(waivers), today, signals=candidate[1].get("signals", {})
    )


def _repeated(baseline: Scores, candidate: Scores) -> Scores:
    """The same model on both sides is an A/A run: other batches are what it tries, and other answers are no verdict (6)."""
    if baseline[1]["model_digest"] != candidate[1]["model_digest"]:
        return candidate
    check_repeatable(baseline, candidate)
    return as_first(baseline, candidate)


def judge_case(case: Case, policy: GatePolicy) -> Verdict:
    """The looks in their order: the first that passes or raises the alarm ends it, the last decides."""
    if case.attempt < 1 or not 0 <= case.partial <= policy.looks:
        raise PolicyError("no such attempt or look", got=f"attempt {case.attempt}, look {case.partial}", expected=f"attempts from 1, looks up to {policy.looks}")  # fmt: skip
    alpha = alpha_at(min(case.attempt, policy.attempts), policy.alpha)
    bounds = boundaries(alpha, policy.looks)
    plans = comparisons(case, policy)
    for look in [case.partial] if case.partial else _looks(plans, policy):
        found = [_compare(plan, case, policy, look, bounds[look - 1]) for plan in plans]
        if all(f.passes for f in found) or any(f.regressed for f in found):
            break
    return _verdict(case, policy, found, look=look, alpha=alpha, z=bounds[look - 1])


def _looks(plans: Sequence["Comparison"], policy: GatePolicy) -> list[int]:
    """Looks in their order; an early one that would rest on too few clusters is left out (which spends no alpha)."""
    tasks = [t for plan in plans for t in plan.decision if policy.rule_for(t.name).tier != "advisory"]
    early = [k for k in range(1, policy.looks) if not any(_at(t, k, policy).too_few for t in tasks)]
    return [*early, policy.looks]


def _at(task: Pairs, look: int, policy: GatePolicy) -> Pairs:
    return task.take(in_look(policy.seed, task.name, task.cluster, look, policy.looks))


@dataclass(frozen=True)
class Comparison:
    """The candidate against one baseline: margins and target rule in force, dev and decision items, what tells something.

    role: base, champion or original, as reasons name it. dev: all items where none are set apart.
    """

    against: Against
    policy: GatePolicy
    target_rule: str
    dev: tuple[Pairs, ...]
    decision: tuple[Pairs, ...]
    informative: frozenset[str]
    role: str


def comparisons(case: Case, policy: GatePolicy) -> list[Comparison]:
    """Every baseline's comparison, in the case's order."""
    return [_plan(against, policy, retraining=len(case.baselines) > 1) for against in case.baselines]


def _plan(against: Against, policy: GatePolicy, *, retraining: bool) -> Comparison:
    """Margins, target rule and items of one comparison; dev items are set apart only where a repair may use them."""
    role = "original" if retraining and against.role == "base" else against.role
    mine = policy.against_original() if role == "original" else policy
    target_rule = policy.target.champion_rule if against.role == "champion" else policy.target.rule
    dev, decision = list(against.tasks), list(against.tasks)
    if policy.on_fail == "repair":
        masks = [is_dev(policy.seed, t.name, t.cluster, policy.dev_share) for t in against.tasks]
        dev = [t.take(mask) for t, mask in zip(against.tasks, masks, strict=True)]
        decision = [t.take(~mask) for t, mask in zip(against.tasks, masks, strict=True)]
    informative = frozenset(t.name for t in dev if len(t.base) and tells_something(t, policy))
    return Comparison(against, mine, target_rule, tuple(dev), tuple(decision), informative, role)


def _compare(plan: Comparison, case: Case, policy: GatePolicy, look: int, z: float) -> Assessment:
    tasks = [t if case.partial else _at(t, look, policy) for t in plan.decision]
    line = lineup(tasks, plan.policy, plan.target_rule, plan.informative)
    waived = {w.benchmark for w in case.waivers if w.holds(case.candidate_digest, case.today)}
    found = assess(
        line, plan.policy, target_rule=plan.target_rule, z=z, waived=waived, role=plan.role, early=look < policy.looks
    )
    if plan.against.digest == case.candidate_digest:
        return equal(found, plan.role)
    return found if policy.looks == 1 else _at_look(found, line, plan.policy, final=look == policy.looks)


def _at_look(found: Assessment, line: Lineup, policy: GatePolicy, *, final: bool) -> Assessment:
    """With four looks the fail side may be left early by the e-process alone; the fixed tests wait for the last look."""
    m = policy.macro_margin_points * POINT / 2
    x = rounds(line.counted, weights_of(line.counted, policy), m, policy.seed)
    alarmed = bool(alarm(x, m, policy.fail_alpha / 2)) and not found.passes
    return replace(found, regressed=alarmed or (final and found.regressed))


def _verdict(case: Case, policy: GatePolicy, found: Sequence[Assessment], *, look: int, alpha: float, z: float) -> Verdict:  # fmt: skip
    reasons = tuple(r for f in found for r in f.reasons)
    word: Word = "pass" if all(f.passes for f in found) else "inconclusive"
    if any(f.regressed for f in found):
        word = "regressed"
    if case.attempt > policy.attempts:
        word = "inconclusive" if word == "pass" else word
        reasons += (Reason("budget_spent", got=float(case.attempt), limit=float(policy.attempts)),)
    settings = policy.as_parameter()
    first, last = found[0], found[-1]
    return Verdict(
        verdict=word, action=_action(word, reasons, case, policy), reasons=reasons, candidate_digest=case.candidate_digest,
        baselines=tuple({"role": a.role, "digest": a.digest} for a in case.baselines), policy=settings, policy_digest=digest.of_json(settings),
        attempt=case.attempt, alpha=alpha, z=round(z, 6), look=look, items_used_percent=round(100 * look / policy.looks, 1),
        benchmarks=first.benchmarks, macro=first.macro, target=first.target,
        cumulative={"benchmarks": list(last.benchmarks), "macro": last.macro, "target": last.target} if len(found) > 1 else {},
        waivers=tuple(_waiver_row(w, case) for w in case.waivers), warnings=(*dict.fromkeys(w for f in found for w in f.warnings), *_general_text(case, policy)),
    )  # fmt: skip


def _general_text(case: Case, policy: GatePolicy) -> list[str]:
    """The warning where general text became less likely by more than the policy's limit."""
    rise = case.signals.get("rise", 0.0)
    return [f"general text: cross-entropy rose by {rise:.3f} nats a token (limit {policy.warn_rise_nats:g})"] if rise > policy.warn_rise_nats else []  # fmt: skip


def _action(word: Word, reasons: Sequence[Reason], case: Case, policy: GatePolicy) -> Action:
    """A repair weakens the tuning: it helps where too much was lost, never where too little was learned."""
    if word == "pass":
        return "wait" if policy.approval == "required" else "publish"
    codes = {r.code for r in reasons} - {"too_few_items", "equal_digests"}
    mendable = bool(codes) and codes <= REPAIRABLE and case.attempt < policy.attempts and not case.repaired
    return "repair" if policy.on_fail == "repair" and mendable else "stop"


def _waiver_row(waiver: Waiver, case: Case) -> Row:
    row = {name: getattr(waiver, name) for name in ("benchmark", "who", "why", "until", "signature")}
    return {**row, "holds": waiver.holds(case.candidate_digest, case.today)}
