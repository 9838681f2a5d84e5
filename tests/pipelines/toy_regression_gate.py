"""The second half of regression-gate on scores that lie on this machine, printed as one compiled spec."""

import json

from kfp import dsl

from retain_pipelines.closing import closed
from retain_pipelines.compiling import spec_of
from retain_pipelines.regression_gate import decide


@dsl.component(base_image="retain-gpu:0", install_kfp_package=False)
def known(folder: str, scores: dsl.Output[dsl.Dataset]) -> None:
    import shutil

    shutil.copytree(folder, scores.path)


@dsl.pipeline(name="decided")
@closed
def decided(config: dict, base: str, candidate: str) -> None:
    before = known(folder=base).set_display_name("score-base")
    after = known(folder=candidate).set_display_name("score-candidate")
    decide(config, before.outputs["scores"], after.outputs["scores"])


if __name__ == "__main__":
    print(json.dumps(spec_of(decided)))
