"""What scripts and packages share: files, signals, recognition of speech, pages and pictures."""
