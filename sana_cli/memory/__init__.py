"""What a picture takes in memory, and ways to draw it in less."""
