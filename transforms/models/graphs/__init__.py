"""TensorFlow graphs: tracing, cutting, rewriting and compiling them."""
