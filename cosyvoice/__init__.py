"""CosyVoice inference."""

import os

# onnxruntime reads it when it is imported; it would complain on the terminal where the home folder cannot be written
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
