"""Text to syntax: YAML trees with positions, and the expressions inside them."""
