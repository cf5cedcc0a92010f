"""Visualisation: overlays, heat maps, legends, panels and charts."""
