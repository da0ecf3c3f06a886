"""Torch-free use of exported files: sessions, cards, drawing, frames."""
