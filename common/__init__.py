"""What scripts and packages share: files, signals, languages, recognition of speech, pages and pictures."""
