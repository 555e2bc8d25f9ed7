"""Which identifier does a thing carry? PURE: entropy and time are arguments.

Shapes follow the ones OpenAI uses, because clients sort, log and pattern-match on them.
"""

import hashlib
import re

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_FILE_ID_LENGTH = 22
_SLUG = re.compile(r"[^a-z0-9._-]+")
POOL_NAME_MAX = 120


def batch_id(now_ns: int, entropy: bytes) -> str:
    """`batch_` + 32 hex digits: 8 of the second, 6 of the part of it, 18 of at least 9 random bytes; sorts by age."""
    seconds, rest_ns = divmod(now_ns, 10**9)
    return f"batch_{seconds & 0xFFFFFFFF:08x}{(rest_ns << 24) // 10**9:06x}{entropy[:9].hex()}"


def part_of_topic_batch(first_seen_ns: int, tenant: str, name: str, part: int) -> str:
    """The id of a part of a batch by topic: whoever creates it names it alike. Times are those of the first part."""
    entropy = hashlib.sha256(f"{tenant}/{name}/{part}".encode()).digest()
    return batch_id(first_seen_ns, entropy)


def another_part(batch: str, tenant: str, name: str, part: int) -> str:
    """The id of another part of the batch that `batch` is a part of."""
    prefix = len("batch_") + 14
    return batch[:prefix] + part_of_topic_batch(0, tenant, name, part)[prefix:]


def input_file_id(batch: str) -> str:
    """The id of the file that the lines of a batch by topic become."""
    return file_id(f"{batch}/input".encode())


def file_id(entropy: bytes) -> str:
    """`file-` + 22 base-58 characters, a function of at least 16 bytes of entropy."""
    number = int.from_bytes(hashlib.sha256(entropy).digest())
    digits = []
    for _ in range(_FILE_ID_LENGTH):
        number, digit = divmod(number, len(_BASE58))
        digits.append(_BASE58[digit])
    return "file-" + "".join(digits)


def upload_id(now_s: int, entropy: bytes) -> str:
    """`upload_` + 32 hex digits; the first 8 are the creation time."""
    return f"upload_{now_s & 0xFFFFFFFF:08x}{entropy[:12].hex()}"


def part_id(now_s: int, entropy: bytes) -> str:
    """`part_` + 32 hex digits; the first 8 are the creation time."""
    return f"part_{now_s & 0xFFFFFFFF:08x}{entropy[:12].hex()}"


def result_file_id(batch: str, kind: str) -> str:
    """The id of a batch's `output` or `error` file: finalising twice names the same file."""
    return file_id(f"{batch}/{kind}".encode())


def request_id(batch: str, line: int) -> str:
    """`batch_req_` + 32 hex digits, the same at every attempt of the same line."""
    return "batch_req_" + hashlib.sha256(f"{batch}#{line}".encode()).hexdigest()[:32]


def single_request_id(tenant: str, request: str) -> str:
    """As `request_id`, of a request without a batch; `request` is its caller's id, one of the tenant's own."""
    return "batch_req_" + hashlib.sha256(f"{tenant}/{request}".encode()).hexdigest()[:32]


def pool_of_model(model: str) -> str:
    """The slug that names a model's pool of workers inside topic names.

    A name that the slug cannot hold unchanged gets a short hash, so that two models never share a
    pool by accident of spelling.
    """
    slug = _SLUG.sub("-", model.lower()).strip("-._")[:POOL_NAME_MAX]
    if slug == model:
        return slug
    return f"{slug}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"
