"""Texts as they are spoken: numbers, dates, units and signs as words, in the language that they stand in."""
