"""What is an API key made of, and what may it do? PURE: entropy and time are arguments."""

import hashlib
import re

KEY_PREFIX = "sk-headrace-"
SECRET_BYTES = 24
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SCOPES = ("files.read", "files.write", "batches.read", "batches.write", "models.read")


def new_secret(key_id: str, entropy: bytes) -> str:
    """What the user sends: prefix, key id, 48 hex digits. Random, so that one round of SHA-256 hides it."""
    return f"{KEY_PREFIX}{key_id}-{entropy[:SECRET_BYTES].hex()}"


def digest_of(secret: str) -> str:
    """SHA-256 of the whole secret, in hex; the only trace that is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def masked(secret: str) -> str:
    """The secret as it may be shown."""
    return f"{secret[:7]}***{secret[-4:]}" if len(secret) > 16 else "***"
