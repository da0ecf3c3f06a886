"""The data doctor: every picture and annotation looked at, what is wrong, and what to do about it."""
