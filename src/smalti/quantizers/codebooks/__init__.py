"""Codebooks: code vectors and their update rules."""
