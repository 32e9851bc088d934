"""What to draw: options from every place, resolved once into parameters."""
