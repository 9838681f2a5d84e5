"""Step `mix`: target, replay and safety rows at exact shares of tokens, free of the gate's own items."""
