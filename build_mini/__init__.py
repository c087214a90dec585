"""Scripts that rebuild pretrained_models/CosyVoice-mini from packages by name."""
