"""Step `template`: rows to tokens with the model's own chat template, masked, cached, and shown."""
