"""Which API key is this? PURE: keys in, the one that a secret belongs to out."""

import hmac

from shared.api_keys import digest_of
from shared.messages import ApiKey


class Keyring:
    """All keys of the installation, revoked ones too."""

    def __init__(self) -> None:
        self._by_id: dict[str, ApiKey] = {}
        self._by_digest: dict[str, ApiKey] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever made; a revoked one still closes the API to those who have none."""
        return not self._by_id

    def put(self, key: ApiKey) -> None:
        """Note a key, or a change of it."""
        self.remove(key.id)
        self._by_id[key.id] = self._by_digest[key.sha256] = key

    def remove(self, key_id: str) -> None:
        """Forget a key."""
        key = self._by_id.pop(key_id, None)
        if key is not None:
            self._by_digest.pop(key.sha256, None)

    def find(self, secret: str, now_s: float) -> ApiKey | None:
        """The valid key with this secret. Time tells nothing: what is looked up is a hash of it."""
        digest = digest_of(secret)
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest) or not key.is_valid(now_s):
            return None
        return key
