"""Images for people: overlays, heat maps, legends, panels and charts."""
