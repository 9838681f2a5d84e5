"""The step ``train``: a base and a mixture of rows become an adapter (or changed weights)."""
