"""`lash-tasks sessions create`, `command`, `rename` and `delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_tasks.cli.application import open_client
from lash_tasks.cli.output import JsonFlag, command
from lash_tasks.cli.receipts import report
from lash_tasks.domain.codec import JsonObject, parse_object
from lash_tasks.domain.founding import Start
from lash_tasks.errors import InvalidInput, NotFound, SessionAlreadyExists


class SessionIsThere(SessionAlreadyExists):
    """SessionAlreadyExists, with the option that begins it anew."""

    def sentence(self) -> str:
        return f"session {self.args[0]!r} exists already; use another id, or --fresh to begin it anew"


Session = Annotated[str, typer.Argument(help="The session's id.")]


def create_session(
    session: Annotated[str | None, typer.Argument(help="The session's id; a new one if left out.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Whose policy it lies over until it is sent to.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it is called.")] = None,
    parent: Annotated[str | None, typer.Option("--parent", help="The session that it is a child of.")] = None,
    usage_source: Annotated[
        str | None, typer.Option("--usage-source", help="The label of its usage in its parent's report.")
    ] = None,
    start: Annotated[Start, typer.Option("--start", help="What it begins with.")] = Start.EMPTY,
    source: Annotated[str | None, typer.Option("--source", help="The session of --start existing_session.")] = None,
    spec: Annotated[
        str | None, typer.Option("--spec", metavar="JSON", help="What it says over its agent's policy.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Let a session that exists begin anew.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Create a session, or let one begin anew."""
    with command(as_json) as output, open_client() as client:
        try:
            info = client.create_session(
                session,
                agent=agent,
                name=name,
                parent=parent,
                usage_source=usage_source,
                start=start.value,
                source=source,
                spec=_object("spec", spec),
                fresh=fresh,
            )
        except SessionAlreadyExists as error:
            raise SessionIsThere(*error.args) from None
        output.document(info.as_json(), sentence=f"{info.session_id} is there, at revision {info.revision}")


def rename_session(
    session: Session, name: Annotated[str, typer.Argument(help="Its name from now on.")], as_json: JsonFlag = False
) -> None:
    """Give a session a name."""
    with command(as_json) as output, open_client() as client:
        info = client.rename_session(session, name)
        output.document(info.as_json(), sentence=f"{session} is called {info.name}")


def delete_session(
    session: Session,
    purge: Annotated[bool, typer.Option("--purge", help="Remove its images and large results at once too.")] = False,
    only_if_idle: Annotated[bool, typer.Option("--only-if-idle", help="Not while a turn of it runs.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete a session with everything in it; a running turn of it is stopped."""
    with command(as_json) as output, open_client() as client:
        if not client.delete_session(session, only_if_idle=only_if_idle, purge=purge):
            raise NotFound("session", session)
        output.document({"session_id": session, "deleted": True}, sentence=f"{session} is deleted")


def send_command(
    session: Session,
    kind: Annotated[str, typer.Argument(help="configure_session, reset_session, branch_to_node, …")],
    arguments: Annotated[
        str | None, typer.Option("--arguments", metavar="JSON", help="What the command needs.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: sent twice, stored once.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Whose worker applies it; else the session's.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its turn and print it; exit 1 if it did not finish.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait.")] = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Send a command to a session; it is applied in its turn."""
    with command(as_json) as output, open_client() as client:
        from lash_tasks.wiring import new_id

        given, own_key = _object("arguments", arguments), key if key is not None else new_id()
        receipt = client.command(session, kind, given, idempotency_key=own_key, agent=agent)
        report(output, receipt, wait=wait, timeout=timeout, key=own_key)


def _object(option: str, text: str | None) -> JsonObject:
    if text is None:
        return {}
    if not text.strip():
        raise InvalidInput(option, "must not be empty")
    try:
        return parse_object(text)
    except ValueError as error:
        raise InvalidInput(option, str(error)) from None
