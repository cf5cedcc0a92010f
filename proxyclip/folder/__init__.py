"""Segmenting many images: finding them, reading ahead, writing behind, and continuing after an interruption."""
