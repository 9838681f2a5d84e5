"""A tuned model made smaller: a new candidate with a proof of its own, that must pass the gate again."""
