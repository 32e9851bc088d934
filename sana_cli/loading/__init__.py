"""A checkpoint becomes modules with weights, resident or streamed, with LoRAs."""
