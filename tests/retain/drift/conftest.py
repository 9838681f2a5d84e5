from ..gate.conftest import scores

__all__ = ["scores"]
