"""Image and text encoders: CLIP, vision foundation models, their checkpoints and CPU kernels."""
