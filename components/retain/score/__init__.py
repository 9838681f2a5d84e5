"""The step `score`: any lm-eval task and the user's own test rows, item by item, on one model."""
