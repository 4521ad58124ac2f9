"""``python -m ssl_jax`` is ``ssl-jax``."""

from ssl_jax.run import cli

if __name__ == "__main__":
    cli.main()
