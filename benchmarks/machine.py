"""What a measurement was made on, for the documents in `benchmarks/results/`."""

from sana_cli.bench.machine import machine as machine  # benchmarks know it from here
