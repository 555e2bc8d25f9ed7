"""Which store does a URL name? SHELL: the one place where the concrete class is chosen and probed."""

import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.directory_store import DirectoryStore
from shared.errors import ObjectStoreError, SetupError, UnavailableError
from shared.object_store import ObjectStore, probe
from shared.s3_store import S3Store
from shared.settings import StoreSettings


async def open_store(settings: StoreSettings) -> ObjectStore:
    """Open `file:///DIR` or `s3://BUCKET` and see that writes are create-only; raises SetupError."""
    url = urlsplit(settings.url)
    store: ObjectStore
    if url.scheme == "file" and url.path and not url.netloc:
        store = DirectoryStore(Path(unquote(url.path)), settings.threads)
    elif url.scheme == "s3" and url.netloc and url.path in ("", "/"):
        bucket = S3Store(url.netloc, settings)
        await bucket.open()
        store = bucket
    else:
        raise SetupError(f"HEADRACE_STORE__URL={settings.url!r}: expected file:///DIR or s3://BUCKET")
    try:
        await probe(store, f"probe/{uuid.uuid4().hex}")
    except (ObjectStoreError, UnavailableError) as error:
        raise SetupError(f"the object store at {settings.url} does not take writes: {error}") from error
    return store
