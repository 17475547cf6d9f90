"""The robustness passport: what recognizers say of clips that lack modalities."""
