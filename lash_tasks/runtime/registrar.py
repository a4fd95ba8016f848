"""Where sessions come to be on purpose, are looked up with the policy that their turns go by, and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lash_tasks.domain.agents import AgentSnapshot
from lash_tasks.domain.codec import JsonObject, canonical, encode
from lash_tasks.domain.founding import NewSession, Preview, rfc3339, seeded_messages
from lash_tasks.domain.ids import SessionId
from lash_tasks.domain.messages import Message
from lash_tasks.domain.policies import SessionPolicy, policy_of
from lash_tasks.domain.sessions import SessionHead
from lash_tasks.errors import (
    HeadRevisionConflict,
    NotFound,
    NoWorkerHasRegistered,
    PayloadTooLarge,
    SessionAlreadyExists,
    SessionBusy,
    SessionDeleted,
    SessionMismatch,
    UnknownAgent,
)
from lash_tasks.stores.protocols import Fleet, SessionRegistry, SessionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as it stands: where it comes from, what its turns go by, and how it began."""

    session_id: str
    name: str
    revision: int
    turn_index: int
    created_at_ms: int
    relation: JsonObject
    usage_source: str | None
    spec: JsonObject
    """What the session says over its agent's policy."""
    policy: SessionPolicy | None
    """What its turns go by; None as long as nothing says which agent it has, or no worker has registered it."""
    first_user_message: str | None
    user_message_count: int

    @property
    def parent_id(self) -> str | None:
        parent: str | None = self.relation.get("parent_session_id")
        return parent

    @property
    def created_at(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.created_at_ms)

    def as_json(self) -> JsonObject:
        return {
            "session_id": self.session_id,
            "name": self.name,
            "revision": self.revision,
            "turn_index": self.turn_index,
            "created_at_ms": self.created_at_ms,
            "created_at": self.created_at,
            "relation": self.relation,
            "usage_source": self.usage_source,
            "spec": self.spec,
            "policy": None if self.policy is None else self.policy.as_json(),
            "first_user_message": self.first_user_message,
            "user_message_count": self.user_message_count,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Creates, shows and deletes sessions. Safe from any thread."""

    registry: SessionRegistry
    sessions: SessionStore
    fleet: Fleet
    new_session_id: Callable[[], str]
    max_payload_bytes: int

    def create(self, new: NewSession) -> SessionInfo:
        """What `SessionRegistry.create` does; UnknownAgent, NoWorkerHasRegistered, PayloadTooLarge as for an input."""
        self._check_agent(new)
        self._check_size(new)
        return self._shown(self.registry.create(new))

    def begin_anew(self, new: NewSession, expected_revision: int | None) -> SessionInfo:
        """Let the session begin anew, or be, if it is not; the revision is the one it has now, unless given.

        Of a revision it has to be there. SessionBusy where the first input of all still waits.
        """
        head = self.sessions.head(new.session_id)
        if head is None or head.deleted_at_ms is not None:
            if expected_revision:
                raise HeadRevisionConflict(new.session_id, expected_revision, 0 if head is None else head.head_revision)
            try:
                return self.create(new)
            except SessionAlreadyExists:
                head = self.sessions.head(new.session_id)
        if head is None:
            raise SessionBusy(new.session_id)
        self._check_agent(new)
        self._check_size(new)
        revision = head.head_revision if expected_revision is None else expected_revision
        return self._shown(self.registry.begin_anew(new, revision))

    def show(self, session_id: SessionId) -> SessionInfo:
        """The session; NotFound, SessionDeleted."""
        return self._shown(self._there(session_id))

    def show_all(self, heads: Sequence[SessionHead]) -> list[SessionInfo]:
        previews = self.registry.previews([head.session_id for head in heads])
        agents = {agent.name: agent for agent in self.fleet.agents()} if heads else {}
        return [self._info(head, previews[head.session_id], agents) for head in heads]

    def children(self, session_id: SessionId) -> list[SessionInfo]:
        """The session's children, oldest first."""
        return self.show_all(self.registry.children(session_id))

    def require_child(self, session_id: SessionId, parent_id: SessionId) -> None:
        """SessionMismatch unless the one was created as a child of the other."""
        if self._there(session_id).parent_id != parent_id:
            raise SessionMismatch(session_id, parent_id)

    def rename(self, session_id: SessionId, name: str) -> SessionInfo:
        """Give the session a name; NotFound, SessionDeleted."""
        self.registry.rename(session_id, name)
        return self.show(session_id)

    def _shown(self, head: SessionHead) -> SessionInfo:
        return self.show_all([head])[0]

    def _check_agent(self, new: NewSession) -> None:
        agent = new.spec.agent
        if agent is None:
            return
        known = tuple(one.name for one in self.fleet.agents())
        if agent not in known:
            raise UnknownAgent(agent, known) if known else NoWorkerHasRegistered(agent)

    def _check_size(self, new: NewSession) -> None:
        sizes = {
            "spec": len(canonical(new.spec.as_json())),
            "initial_messages": sum(len(encode(Message, message)) for message in seeded_messages(new.seeds)),
        }
        for field, size in sizes.items():
            if size > self.max_payload_bytes:
                raise PayloadTooLarge(field, size, self.max_payload_bytes)

    def _there(self, session_id: SessionId) -> SessionHead:
        head = self.sessions.head(session_id)
        if head is None:
            raise NotFound("session", session_id)
        if head.deleted_at_ms is not None:
            raise SessionDeleted(session_id)
        return head

    def _info(self, head: SessionHead, preview: Preview, agents: Mapping[str, AgentSnapshot]) -> SessionInfo:
        agent = agents.get(self.registry.agent_of(head.session_id) or "")
        return SessionInfo(
            session_id=head.session_id,
            name=head.name or head.session_id,
            revision=head.head_revision,
            turn_index=head.turn_index,
            created_at_ms=head.created_at_ms,
            relation=head.relation,
            usage_source=head.usage_source,
            spec=head.spec.as_json(),
            policy=None if agent is None else policy_of(agent, head.spec),
            first_user_message=preview.first_user_message,
            user_message_count=preview.user_message_count,
        )
