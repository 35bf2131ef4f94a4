"""Codebooks: the code vectors and the rules by which they learn."""
