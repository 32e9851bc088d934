"""Model files: found, downloaded, verified and described; nothing here computes."""
