"""How good a model is: what it predicts, measured on texts."""
