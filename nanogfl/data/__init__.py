"""Annotated datasets: readers for the supported formats, their common table, augmentation and loading."""
