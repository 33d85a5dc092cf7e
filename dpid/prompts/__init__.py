"""From a prompt and its concepts to the texts that a model is given."""
