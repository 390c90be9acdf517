import jax

# These tests compile much and compute little: 2.5 times faster this way.
jax.config.update("jax_disable_most_optimizations", True)
