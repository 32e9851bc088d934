"""Everything that is known in advance: choices, networks, published models, recipes, user settings."""
