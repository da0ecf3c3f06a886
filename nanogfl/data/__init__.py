"""Annotated pictures: readers, one table, augmentation, loading."""
