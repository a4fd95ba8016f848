"""A tool in a module whose annotations are evaluated at once."""

from typing import Annotated

from pydantic import Field

from lash_tasks.tools.context import ToolContext
from lash_tasks.tools.definition import tool


@tool
def search(
    query: Annotated[str, Field(description="What to look for")], ctx: ToolContext, limit: int = 10
) -> list[str]:
    """Search."""
    return [query, ctx.tool, str(limit)]
