"""Estimators of the gradient of a quantizer that replaces tokens by their nearest codes."""
