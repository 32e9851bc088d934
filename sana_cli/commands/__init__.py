"""One verb a file: the options of a command and the call that does the work."""
