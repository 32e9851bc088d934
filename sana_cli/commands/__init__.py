"""Commands, a verb a file: its options and the call that does the work."""
