"""The pages that people look at: templates, one style sheet, and what fills them in."""
