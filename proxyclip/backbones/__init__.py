"""The models that are read: CLIP, vision foundation models, their weights, and the kernels that run them."""
