"""The texts that a model is conditioned on, made from a prompt and its concepts."""
