"""Which failures exist, by what the caller can do about them.

HeadraceError
├── SetupError          the operator must change something; the process exits with code 2
├── UnavailableError    a dependency did not answer; trying again may help (retriable)
└── ObjectStoreError
    ├── ObjectNotFound  no object under this key
    └── ObjectExists    a create-only write found the key taken
"""


class HeadraceError(Exception):
    """Root of every error that Headrace raises itself."""

    retriable = False


class SetupError(HeadraceError):
    """One sentence that names what is wrong and what to do; ends the process with code 2."""


class UnavailableError(HeadraceError):
    """A broker, store or engine did not answer inside its limit."""

    retriable = True


class ObjectStoreError(HeadraceError):
    """The object store refused an operation."""


class ObjectNotFound(ObjectStoreError):
    """No object has this key."""


class ObjectExists(ObjectStoreError):
    """The key is taken: published objects never change (invariant V3)."""
