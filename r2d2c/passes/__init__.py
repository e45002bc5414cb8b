"""Graph to graph: inlining, dead code, credit, gradients, visits; and what is legal at each stage."""
