"""Two scorings that lie on this machine, judged and decided as the pipelines do it, printed as one compiled spec."""

import json

from kfp import dsl
from toy_regression_gate import known

from retain.judge.component import judge
from retain_pipelines.compiling import spec_of
from retain_pipelines.regression_gate import decide


@dsl.pipeline(name="judged")
def judged(scoring: dict, config: dict, base: str, candidate: str) -> None:
    before = known(folder=base).set_display_name("score-base")
    after = known(folder=candidate).set_display_name("score-candidate")
    compared = judge(config=scoring, base_scores=before.outputs["scores"], candidate_scores=after.outputs["scores"])
    decide(config, compared.outputs["base_judged"], compared.outputs["candidate_judged"])


if __name__ == "__main__":
    print(json.dumps(spec_of(judged)))
