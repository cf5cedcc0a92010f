"""Raw downloads, as their publishers pack them, turned into what the benchmarks read: one converter a file."""
