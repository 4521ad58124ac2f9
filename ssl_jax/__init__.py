"""Self-supervised learning in JAX: pure methods, one train step, honest evaluation."""
