"""Everything that is drawn: overlays, legends, panels, charts."""
