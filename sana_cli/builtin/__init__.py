"""The small trained model that ships with the package: weights, tokenizer and model card."""
