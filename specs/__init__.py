"""Ready specs by family, and the standard blocks in std/ that a spec can import."""
