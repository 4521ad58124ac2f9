"""What pyproject.toml cannot say: configs/ and experiments/ go into the package, where an installed one finds them."""

from setuptools import find_namespace_packages, setup

SHIPPED = {"ssl_jax.shipped.configs": "configs", "ssl_jax.shipped.experiments": "experiments"}

setup(packages=[*find_namespace_packages(include=["ssl_jax*"]), *SHIPPED], package_dir=SHIPPED)
