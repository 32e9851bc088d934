"""The parts of a model, by the names of their folders."""

NETWORKS = ("transformer", "vae", "text_encoder")  # parts with weights
OPTIONAL = ("controlnet",)  # further parts with weights, which a model may have
COMPONENTS = (*NETWORKS, "tokenizer", "scheduler")
RUN_ORDER = ("text_encoder", "transformer", "vae")  # each makes the next one's inputs
