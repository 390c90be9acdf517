"""For tools that look for a setup.py; everything is in pyproject.toml."""

import setuptools

setuptools.setup()
