"""`python -m sana_cli`."""

from sana_cli.cli import run

if __name__ == "__main__":
    run()
