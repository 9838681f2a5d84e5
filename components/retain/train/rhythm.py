"""The rhythm of a run, told to transformers' loop step by step."""

from typing import Any

from transformers import TrainerCallback


class Rhythm(TrainerCallback):
    """When to log (always), evaluate, save and stop."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.engine.evaluate()
        self.engine.watch.pause()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        engine, (evaluate, save) = self.engine, self.engine.plan.every
        engine.agree()
        last = state.global_step == state.max_steps
        control.should_log = True
        control.should_evaluate = last or state.global_step % evaluate == 0
        control.should_save = engine.interrupted or state.global_step % save == 0
        control.should_training_stop = control.should_training_stop or engine.interrupted or last

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The one epoch of the loop is the whole run, and its last step has already been evaluated and saved."""
        control.should_log = control.should_evaluate = control.should_save = False
