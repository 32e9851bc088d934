"""The recipe that made `sana_cli/builtin`; `python -m training --help` lists its steps."""
