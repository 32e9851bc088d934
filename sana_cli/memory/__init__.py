"""Predict the memory of a picture, and plan how to draw it in less."""
