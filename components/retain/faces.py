"""Component partials: every step's face is a kfp component on one of the two images, with nothing installed at start."""

from functools import partial

from kfp import dsl

from retain import images

# validate, template, mix, gate, publish: a tokenizer, no torch
on_cpu = partial(dsl.component, base_image=images.reference("cpu"), install_kfp_package=False)
# rehearse, train, merge, score, repair: torch
on_gpu = partial(dsl.component, base_image=images.reference("gpu"), install_kfp_package=False)
