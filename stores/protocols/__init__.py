"""One small Protocol per store; the docstring of a verb is its contract.

For every SQL verb: it is one transaction, it lands whole or not at all, and it raises StoreUnavailable when the
database cannot be reached or gave up (nothing was written, unless the verb says otherwise). Times are epoch
milliseconds of the database. Verbs are safe from any thread.
"""

from lash_tasks.stores.protocols.admissions import AdmissionRequest, Admissions, NotYet
from lash_tasks.stores.protocols.attachments import Attachment, AttachmentStore, Collected
from lash_tasks.stores.protocols.fleet import Beat, Fleet, WorkerRecord
from lash_tasks.stores.protocols.frames import FrameStore
from lash_tasks.stores.protocols.graph import GraphStore
from lash_tasks.stores.protocols.queue import CallerEnqueued, CallerQueue, InputQueue
from lash_tasks.stores.protocols.reading import BlobStore, SessionStore, StoredState
from lash_tasks.stores.protocols.registry import SessionRegistry
from lash_tasks.stores.protocols.session_changes import FollowUp, FrameOpening, PathChange, SpecChange, StateWrite
from lash_tasks.stores.protocols.turns import (
    CheckpointRefused,
    CheckpointRequest,
    CheckpointTaken,
    CommitRefused,
    Committed,
    NotOpened,
    OpenedTurn,
    OpenRequest,
    Pinned,
    TurnCommit,
    TurnStore,
)
from lash_tasks.stores.protocols.volatile import (
    GapReason,
    Leases,
    LeaseState,
    LiveBatch,
    LiveEvent,
    LiveGap,
    LiveReplay,
    Released,
    Slots,
)
from lash_tasks.stores.protocols.work import Pruning, Runnable, WorkStore

__all__ = [
    "AdmissionRequest",
    "Admissions",
    "Attachment",
    "AttachmentStore",
    "Beat",
    "BlobStore",
    "CallerEnqueued",
    "CallerQueue",
    "CheckpointRefused",
    "CheckpointRequest",
    "CheckpointTaken",
    "Collected",
    "CommitRefused",
    "Committed",
    "Fleet",
    "FollowUp",
    "FrameOpening",
    "FrameStore",
    "GapReason",
    "GraphStore",
    "InputQueue",
    "LeaseState",
    "Leases",
    "LiveBatch",
    "LiveEvent",
    "LiveGap",
    "LiveReplay",
    "NotOpened",
    "NotYet",
    "OpenRequest",
    "OpenedTurn",
    "PathChange",
    "Pinned",
    "Pruning",
    "Released",
    "Runnable",
    "SessionRegistry",
    "SessionStore",
    "Slots",
    "SpecChange",
    "StateWrite",
    "StoredState",
    "TurnCommit",
    "TurnStore",
    "WorkStore",
    "WorkerRecord",
]
