"""Speaking in a voice, and measuring what it says."""
