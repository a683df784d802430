"""How Sphinx makes the documents: ``tox -e docs``."""

import importlib.metadata

project = "uvicorn-worker"
author = "the uvicorn-worker authors"
release = importlib.metadata.version("uvicorn-worker")
html_theme = "furo"
html_title = f"{project} {release}"
