"""The parts of `datasets.scenes`: words, colours, textures, shapes and how they are put together."""
