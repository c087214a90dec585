"""From recordings to features: what is found, heard, checked, mended and extracted."""
