"""Which turns a worker has the code for, when several versions of an application share a database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.ids import SessionId, WorkerId
from lash_tasks.errors import NotFound, UnsupportedRecordSchemaVersion
from lash_tasks.machine.turn import MACHINE_VERSION
from lash_tasks.stores.protocols import Fleet, OpenRequest, Pinned
from lash_tasks.tools.agents import Agent

log = logging.getLogger(__name__)


class Repertoire:
    """A worker's own agents, and the other versions of them that it has met in unfinished turns and looked at.

    A snapshot is looked at once; so what every opening carries along stays as short as the list of versions that
    are at work. Safe from any thread.
    """

    def __init__(self, agents: Mapping[str, Agent], fleet: Fleet) -> None:
        self._own = {name: agent.snapshot() for name, agent in agents.items()}
        self.refs: Mapping[str, str] = {name: snapshot.ref() for name, snapshot in self._own.items()}
        self._fleet = fleet
        self._lock = threading.Lock()
        self._served: frozenset[str] = frozenset()
        self._foreign: frozenset[str] = frozenset()

    @property
    def foreign(self) -> frozenset[str]:
        """Snapshots that were looked at and that this worker has no code for."""
        return self._foreign

    def request(self, session_id: SessionId, worker: WorkerId, known_revision: int = 0) -> OpenRequest:
        """What this worker asks for when it opens a session whose history it knows up to `known_revision`."""
        return OpenRequest(
            session_id=session_id,
            worker=worker,
            agents=self.refs,
            machine_version=MACHINE_VERSION,
            refs=self._served,
            known_revision=known_revision,
        )

    def has_code_for(self, pinned: Pinned) -> bool:
        """Whether this worker can go on with such a turn; looks at a snapshot that it has not met before.

        Raises StoreUnavailable.
        """
        if pinned.agent not in self.refs or pinned.machine_version != MACHINE_VERSION:
            return False
        if pinned.ref == self.refs[pinned.agent] or pinned.ref in self._served:
            return True
        return pinned.ref not in self._foreign and self._look_at(pinned)

    def _look_at(self, pinned: Pinned) -> bool:
        missing = self._missing(pinned)
        with self._lock:
            if missing:
                self._foreign |= {pinned.ref}
            else:
                self._served |= {pinned.ref}
        extra = {"agent": pinned.agent, "ref": pinned.ref, "missing": ", ".join(missing)}
        if missing:
            log.warning("turns of another version of an agent are left to workers that have its code", extra=extra)
        else:
            log.info("turns of another version of an agent are served too", extra=extra)
        return not missing

    def _missing(self, pinned: Pinned) -> tuple[str, ...]:
        try:
            snapshot: AgentSnapshot = self._fleet.snapshot(pinned.agent, pinned.ref)
        except (NotFound, UnsupportedRecordSchemaVersion) as error:
            return (error.sentence(),)
        return self._own[pinned.agent].lacks(snapshot)
