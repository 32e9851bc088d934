"""`sana serve`: an HTTP server that keeps models loaded, and the APIs that it speaks."""
