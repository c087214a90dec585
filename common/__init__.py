"""What scripts and packages share: files, signals, recognition of speech and pictures."""
