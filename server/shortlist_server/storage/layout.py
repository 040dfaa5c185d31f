"""The name of every file and folder of a store.

DATA_DIR/LOCK                                  locked by the one process that has the store open
DATA_DIR/RESERVE                               space kept back for deletions on a full disk
DATA_DIR/collections/NAME/collection.db        the database of a collection
DATA_DIR/collections/NAME/last-commit          the last commit, recorded outside the database
DATA_DIR/collections/NAME/reindexing           present while the collection has a generation to build
DATA_DIR/collections/NAME/segments/UID/        a segment: a graph, its vectors and passage ids, and a manifest
DATA_DIR/backups/BACKUP/                       a backup: collections in the same layout, and backup.json
"""

from __future__ import annotations

COLLECTIONS_FOLDER = "collections"
LOCK_FILE = "LOCK"
RESERVE_FILE = "RESERVE"
BACKUP_FILE = "backup.json"

DATABASE_FILE = "collection.db"
COMMIT_FILE = "last-commit"
REINDEXING_FILE = "reindexing"
SEGMENTS_FOLDER = "segments"

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "graph.hnsw"
VECTORS_FILE = "vectors.f32"
PASSAGE_IDS_FILE = "labels.i64"
KEYS_FILE = "keys.i64"
TWINS_FILE = "twins.i64"
DATA_FILES = (GRAPH_FILE, VECTORS_FILE, PASSAGE_IDS_FILE, KEYS_FILE, TWINS_FILE)
