"""How methods were evaluated by their authors; one file a method. See `configs.published_protocol`."""
