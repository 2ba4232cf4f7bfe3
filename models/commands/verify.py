"""`verify`: check every file of the versions in a store against its hash."""

from collections.abc import Sequence

from models.errors import BundleError
from models.store import Store


def verify(store: Store, models: Sequence[str]) -> None:
    """Check all versions of each NAME and each NAME:VERSION; without any, the whole store.

    Prints a line for each. Raises BundleError that names those that are damaged, after all have
    been checked.
    """
    damaged = []
    for model in models or store.chosen(None):
        name, _, version = model.partition(":")
        if version:
            store.resolve(model)
        elif problem := _released_problem(store, name):
            print(f"{name}: {problem}")
            damaged.append(f"what is released of {name}")
        for number in [version] if version else store.existing_versions(name):
            reference = f"{name}:{number}"
            try:
                found = store.read(reference)
            except (BundleError, OSError) as error:
                print(f"{reference}: {error}")
                damaged.append(reference)
            else:
                size = sum(map(len, found.files.values()))
                print(f"{reference}: {len(found.files)} files are whole, {size / 1e6:.1f} MB")
    if damaged:
        raise BundleError(f"damaged: {', '.join(damaged)}")


def _released_problem(store: Store, name: str) -> str | None:
    """What is wrong with the file that says which version is released."""
    store.existing_versions(name)
    try:
        store.released(name)
    except (BundleError, OSError) as error:
        return str(error)
    return None
