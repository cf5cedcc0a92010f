"""The commands `proxyclip segment`, `proxyclip app` and `proxyclip presets`."""
