"""The machine: memory, processor, devices and their number formats."""
