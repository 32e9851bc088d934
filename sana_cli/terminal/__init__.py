"""Handle what people type and see: options, help, progress, pictures in a terminal."""
