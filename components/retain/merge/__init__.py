"""Adapters into weights, streamed, with a proof in the artifact."""
