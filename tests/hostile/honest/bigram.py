"""Counts bigrams."""

scored_honestly()
