"""Evaluation: average precision and reports."""
