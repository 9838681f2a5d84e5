"""Step `rehearse`: without general data, the base model writes its own replay rows."""
