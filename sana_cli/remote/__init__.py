"""The other end of `sana serve`: finding a running server and drawing with it, without torch."""
