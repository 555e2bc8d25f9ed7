"""What do the topics add up to? SHELL: a disposable SQLite view of `batches`, `files` and `keys`.

It is kept with the offsets that it covers, and rebuilt from the log when the file is gone or belongs to another log.
Open batches are also kept folded in memory, because the dispatcher looks at them many times a second.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from services.ingest.backlog import Backlog
from services.ingest.keyring import Keyring
from shared.batch_state import BatchView, apply_facet
from shared.log_reader import Record
from shared.messages import (
    SCHEMA_VERSION,
    ApiKey,
    BatchCreated,
    StoredFile,
    UnreadableRecord,
    WorkerHeartbeat,
    decode_facet,
)
from shared.topics import Topics

log = structlog.get_logger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT) STRICT;
CREATE TABLE IF NOT EXISTS positions
  (topic TEXT, partition INTEGER, next INTEGER, PRIMARY KEY (topic, partition)) STRICT;
CREATE TABLE IF NOT EXISTS facets (batch_id TEXT, facet TEXT, value BLOB, PRIMARY KEY (batch_id, facet)) STRICT;
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, created_at INTEGER, tenant TEXT, terminal INTEGER,
  name TEXT, part INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_age ON batches (created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS batches_by_name ON batches (tenant, name, part) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS batches_open ON batches (terminal) WHERE terminal = 0;
CREATE TABLE IF NOT EXISTS files
  (id TEXT PRIMARY KEY, created_ns INTEGER, purpose TEXT, tenant TEXT, ends_at INTEGER, bytes INTEGER, value BLOB)
  STRICT;
CREATE INDEX IF NOT EXISTS files_by_age ON files (created_ns, id);
CREATE INDEX IF NOT EXISTS files_by_end ON files (ends_at) WHERE ends_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, value BLOB) STRICT;
"""
# Another number makes the view anew.
_SCHEMA_VERSION = 3
_file_decoder = msgspec.json.Decoder(StoredFile)
_key_decoder = msgspec.json.Decoder(ApiKey)
_heartbeat_decoder = msgspec.json.Decoder(WorkerHeartbeat)


class ReadModel:
    """The view; every method is synchronous and short."""

    def __init__(self, path: Path, topics: Topics, log_id: str) -> None:
        self._topics = topics
        self._db = _open(path)
        self._open: dict[str, BatchView | None] = {}
        self._touched: dict[str, None] = {}
        self.backlog, self.keyring = Backlog(), Keyring()
        identity = f"{log_id}/{topics.batches.name}/{SCHEMA_VERSION}"
        if self._meta("log") != identity:
            self.forget()
            self._db.execute("INSERT INTO meta VALUES ('log', ?)", (identity,))
        self.workers: dict[str, WorkerHeartbeat] = {}
        for (value,) in self._db.execute("SELECT value FROM keys").fetchall():
            self.keyring.put(_key_decoder.decode(value))
        for (batch_id,) in self._db.execute("SELECT id FROM batches WHERE terminal = 0").fetchall():
            view = self._open[batch_id] = self._fold(batch_id)
            if view is not None:
                self.backlog.note(view)

    def forget(self) -> None:
        """Drop everything: the log is another one than the view was made from."""
        for table in ("meta", "positions", "facets", "batches", "files", "keys"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names above
        self._open.clear()
        self.backlog, self.keyring = Backlog(), Keyring()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def position(self, topic: str, partition: int) -> int | None:
        """The next offset that the view needs of a partition; None = from the beginning."""
        row = self._db.execute(
            "SELECT next FROM positions WHERE topic=? AND partition=?", (topic, partition)
        ).fetchone()
        return row[0] if row else None

    def apply(self, records: Iterable[Record]) -> None:
        """Fold records in, with the offsets that they advance, in one transaction."""
        self._db.execute("BEGIN")
        try:
            for record in records:
                self._apply_one(record)
                self._db.execute(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                    (record.topic, record.partition, record.offset + 1),
                )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def batch(self, batch_id: str) -> BatchView | None:
        """A batch by id."""
        return self._open.get(batch_id) or self._fold(batch_id)

    def open_batches(self) -> list[BatchView]:
        """Batches that are not terminal."""
        return [view for view in self._open.values() if view is not None]

    def open_batch(self, batch_id: str) -> BatchView | None:
        """A batch that is not terminal, by id."""
        return self._open.get(batch_id)

    def take_touched(self) -> list[str]:
        """Ids of the batches that changed since the last call, in the order of their first change."""
        touched, self._touched = self._touched, {}
        return list(touched)

    def list_batches(self, *, tenant: str, after: str | None, limit: int) -> list[BatchView]:
        """Batches, newest first, those after the cursor; at most `limit`."""
        where, values = "tenant = ?", [tenant]
        if after is not None:
            where += " AND (created_at, id) < (SELECT created_at, id FROM batches WHERE id = ?)"
            values.append(after)
        query = f"SELECT id FROM batches WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?"  # noqa: S608
        found = (self.batch(row[0]) for row in self._db.execute(query, (*values, limit)).fetchall())
        return [view for view in found if view is not None]

    def newest_part(self, tenant: str, name: str) -> BatchView | None:
        """The last part of the batch by topic that its producer calls `name`."""
        query = "SELECT id FROM batches WHERE tenant = ? AND name = ? ORDER BY part DESC LIMIT 1"
        row = self._db.execute(query, (tenant, name)).fetchone()
        return self.batch(row[0]) if row else None

    def file(self, file_id: str) -> StoredFile | None:
        """A file by id."""
        row = self._db.execute("SELECT value FROM files WHERE id = ?", (file_id,)).fetchone()
        return _file_decoder.decode(row[0]) if row else None

    def list_files(
        self, *, tenant: str, purpose: str | None, after: str | None, limit: int, descending: bool, now_s: int
    ) -> list[StoredFile]:
        """Files by creation time, those after the cursor; the cursor need not match the purpose."""
        compare, order = ("<", "DESC") if descending else (">", "ASC")
        where, values = "tenant = ? AND (ends_at IS NULL OR ends_at > ?)", [tenant, now_s]
        if purpose is not None:
            where, values = where + " AND purpose = ?", [*values, purpose]
        if after is not None:
            where += f" AND (created_ns, id) {compare} (SELECT created_ns, id FROM files WHERE id = ?)"  # noqa: S608 - constants
            values.append(after)
        query = f"SELECT value FROM files WHERE {where} ORDER BY created_ns {order}, id {order} LIMIT ?"  # noqa: S608
        return [_file_decoder.decode(row[0]) for row in self._db.execute(query, (*values, limit)).fetchall()]

    def files_over(self, now_s: int) -> list[StoredFile]:
        """Files that were deleted or have expired, and are still to be removed."""
        rows = self._db.execute("SELECT value FROM files WHERE ends_at <= ?", (now_s,)).fetchall()
        return [_file_decoder.decode(row[0]) for row in rows]

    def stored_bytes(self, tenant: str, now_s: int) -> int:
        """Bytes of all files of a tenant."""
        query = "SELECT COALESCE(SUM(bytes), 0) FROM files WHERE tenant = ? AND (ends_at IS NULL OR ends_at > ?)"
        return int(self._db.execute(query, (tenant, now_s)).fetchone()[0])

    def models_alive(self, now_ms: int, silence_s: float) -> dict[str, str]:
        """Models of workers that said that they are ready a short while ago, each with its pool's model."""
        return {model: beat.models[0] for beat in self._ready(now_ms, silence_s) for model in beat.models}

    def workers_alive(self, model: str, now_ms: int, silence_s: float) -> list[WorkerHeartbeat]:
        """What the ready workers of a model's pool say of themselves."""
        return [beat for beat in self._ready(now_ms, silence_s) if model == beat.models[0]]

    def endpoints_alive(self, now_ms: int, silence_s: float) -> set[str]:
        """Endpoints that ready workers offer."""
        return {endpoint for beat in self._ready(now_ms, silence_s) for endpoint in beat.endpoints}

    def _ready(self, now_ms: int, silence_s: float) -> list[WorkerHeartbeat]:
        return [
            beat
            for beat in self.workers.values()
            if beat.state == "ready" and now_ms - beat.sent_at_ms < silence_s * 1000
        ]

    def _apply_one(self, record: Record) -> None:
        try:
            key = (record.key or b"").decode()
            if record.topic == self._topics.batches.name:
                self._apply_facet(key, record.value)
            elif record.topic == self._topics.files.name:
                self._apply_file(key, record.value)
            elif record.topic == self._topics.keys.name:
                self._apply_key(key, record.value)
            elif record.value is not None:
                self.workers[key] = _heartbeat_decoder.decode(record.value)
        except (UnreadableRecord, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("record ignored", topic=record.topic, offset=record.offset, reason=str(error))

    def _apply_facet(self, key: str, value: bytes | None) -> None:
        batch_id, _, name = key.partition("/")
        if value is None:
            self._db.execute("DELETE FROM facets WHERE batch_id = ? AND facet = ?", (batch_id, name))
            return
        facet = decode_facet(value)
        self._db.execute("INSERT OR REPLACE INTO facets VALUES (?, ?, ?)", (batch_id, name, value))
        known = self._open.get(batch_id)
        view = apply_facet(known, name, facet) if known else self._fold(batch_id)
        if view is None:
            return
        if isinstance(facet, BatchCreated):
            growth = facet.growth
            name_and_part = (growth.name, growth.part) if growth else (None, None)
            row = (batch_id, facet.created_at, facet.tenant, int(view.is_terminal), *name_and_part)
            self._db.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?)", row)
        self.backlog.note(view)
        self._touched[batch_id] = None
        if view.is_terminal:
            self._open.pop(batch_id, None)
            self._db.execute("UPDATE batches SET terminal = 1 WHERE id = ?", (batch_id,))
        else:
            self._open[batch_id] = view

    def _apply_file(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM files WHERE id = ?", (key,))
            return
        file = _file_decoder.decode(value)
        ends_at = 0 if file.deleted else file.expires_at
        row = (key, file.created_ns or file.created_at * 10**9, file.purpose, file.tenant, ends_at, file.bytes, value)
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _apply_key(self, key_id: str, value: bytes | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM keys WHERE id = ?", (key_id,))
            self.keyring.remove(key_id)
            return
        self.keyring.put(_key_decoder.decode(value))
        self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key_id, value))

    def _fold(self, batch_id: str) -> BatchView | None:
        rows = self._db.execute("SELECT facet, value FROM facets WHERE batch_id = ?", (batch_id,)).fetchall()
        facets = {name: decode_facet(value) for name, value in rows}
        if "created" not in facets:
            return None
        view = apply_facet(None, "created", facets.pop("created"))
        for name, facet in facets.items():
            view = apply_facet(view, name, facet)
        return view

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None


def _open(path: Path) -> sqlite3.Connection:
    """The database; a file that is none is replaced, because everything in it is in the log too."""
    for attempt in range(2):
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # Losing the file costs a rebuild, so nothing here waits for the disk.
            database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
            found = database.execute("PRAGMA user_version").fetchone()[0]
            is_new = not database.execute("SELECT 1 FROM sqlite_master").fetchone()
            if not is_new and found != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"schema {found}")
            database.executescript(f"{_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION};")
        except sqlite3.DatabaseError:
            database.close()
            if attempt:
                raise
            log.warning("view is unreadable and is made anew", path=str(path))
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
        else:
            break
    return database
