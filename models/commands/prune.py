"""`prune`: remove old versions, and what interrupted exports left behind."""

from models.errors import BundleError
from models.store import Store

UNFINISHED_S = 24 * 3600  # leftovers younger than this may still be in use


def prune(store: Store, name: str | None, keep: int, yes: bool) -> None:
    """Remove what `superfluous` lists, or only print it, unless `yes`.

    Raises BundleError, before anything is removed, if one model's released version is unclear.
    """
    old = [(one, v) for one in store.chosen(name) for v in superfluous(store, one, keep)]
    unfinished = store.unfinished(name, UNFINISHED_S)
    done, total = "removed" if yes else "would remove", 0
    for one in store.chosen(name):
        kept = [v for v in store.versions(one) if (one, v) not in old]
        print(f"{one} keeps {', '.join(map(str, kept))}; version {store.released(one)} is released")
    for one, version in old:
        size = store.size_bytes(f"{one}:{version}")
        if yes:
            if version not in superfluous(store, one, keep):
                raise BundleError(f"{one}:{version} was released in the meantime: run prune again")
            store.remove(one, version)
        print(f"{done} {one}:{version}, {size / 1e6:.1f} MB")
        total += size
    for entry in unfinished:
        size = store.unfinished_bytes(entry)
        if yes:
            store.remove_unfinished(entry)
        print(f"{done} {entry}, {size / 1e6:.1f} MB")
        total += size
    if not old and not unfinished:
        print("nothing to remove")
    else:
        print(f"{total / 1e6:.1f} MB in all" + ("" if yes else "; --yes removes them"))


def superfluous(store: Store, name: str, keep: int) -> list[int]:
    """The versions of `name` other than the released one, the one that it replaced, and the `keep`
    newest of the rest; ascending. Raises BundleError if the first two are unclear.
    """
    released = store.released(name)
    decision = store.manifest(f"{name}:{released}").release
    replaced = decision.replaced if decision is not None else None
    rest = [version for version in store.versions(name) if version not in (released, replaced)]
    return rest[:-keep]
