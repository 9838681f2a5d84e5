"""What was gated is what ships: content-addressed copy, version, alias last."""
