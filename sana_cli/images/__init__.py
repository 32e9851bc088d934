"""Picture files: reading, writing, names, sheets."""
