"""Parameters with and without their adapter: trees that share leaves and are put together again."""

ADAPTER = "lora_"  # begins the name of every leaf of an adapter


def only_adapter(params: dict) -> dict:
    """The tree of the adapter's leaves alone."""
    return _picked(params, True)


def without_adapter(params: dict) -> dict:
    """The tree without the adapter's leaves."""
    return _picked(params, False)


def join(first, second):
    """Both trees in one; no leaf is in both."""
    if isinstance(first, tuple):
        return tuple(join(*pair) for pair in zip(first, second, strict=True))
    joined = dict(first)
    for name, leaf in second.items():
        joined[name] = join(joined[name], leaf) if name in joined else leaf
    return joined


def _picked(tree, adapter: bool):
    if isinstance(tree, tuple):
        layers = tuple(_picked(layer, adapter) for layer in tree)
        return layers if any(layers) else {}
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict | tuple):
            if inner := _picked(leaf, adapter):
                found[name] = inner
        elif name.startswith(ADAPTER) == adapter:
            found[name] = leaf
    return found
