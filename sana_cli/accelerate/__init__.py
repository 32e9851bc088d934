"""Faster forwards for loaded modules; results agree with `models`."""
