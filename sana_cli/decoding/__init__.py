"""Decoding in pieces: exact tiles, blended tiles, scales shared by all tiles."""
