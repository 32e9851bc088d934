"""Resolve options from every place, once, into the parameters of a picture."""
