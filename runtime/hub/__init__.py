"""From a model's name to files on this machine: in comes a name, out goes a path and what lies there.

`locate` fetches what the user's cache doesn't hold; `model_names` says what names mean, `download` gets files
from a package index or a hub, `cache_dir` keeps models and the bundles made of them.
"""
