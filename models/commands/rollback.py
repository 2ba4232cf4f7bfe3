"""`rollback`: serve an earlier version by default again."""

from models.errors import BundleError
from models.store import Store


def rollback(name: str, store: Store, to: int | None) -> None:
    before, now = go_back(name, store, to)
    if before == now:
        print(f"version {now} of {name} was released already")
    elif before is None:
        print(f"version {now} of {name} is released; none was before")
    else:
        print(f"version {now} of {name} is released, in place of version {before}")


def go_back(name: str, store: Store, version: int | None = None) -> tuple[int | None, int]:
    """Release `version`, by default the one that the released version replaced.

    Returns the numbers of the version before and now; None if none was released or RELEASED was
    invalid, which a given `version` repairs. Raises BundleError if there is no such version, or it
    is corrupt; ReleaseError if another one is released meanwhile.
    """
    if version is not None:
        current = store.released_or_none(name)
    else:
        current = store.released(name)
        decision = store.manifest(f"{name}:{current}").release
        if decision is None or decision.replaced is None:
            versions = ", ".join(map(str, store.versions(name)))
            raise BundleError(
                f"{name}:{current} replaced no version: choose one with --to; valid: {versions}"
            )
        version = decision.replaced
    store.read(f"{name}:{version}")
    if version != current:
        store.release(name, version, instead_of=current)
    return current, version
