"""Draw a file of prompts on the machines of a Ray cluster. Ray is imported only where one is asked for."""
