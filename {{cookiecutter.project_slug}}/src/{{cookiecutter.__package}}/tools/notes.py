"""Notes: typed arguments, typed results, each tenant with its own."""

from collections import defaultdict
from datetime import UTC, datetime
from itertools import count
from typing import Annotated

from pydantic import BaseModel, Field

from mcp_chassis import Caller, ToolFailure

from ..server import server
from ..settings import Settings

NoteText = Annotated[str, Field(min_length=1, max_length=2000, description="What to remember")]
Query = Annotated[str, Field(min_length=1, max_length=200, description="Text that the notes must contain")]


class Note(BaseModel):
    """One note."""

    number: int
    text: str
    written: datetime


_numbers = count(1)
_notes: dict[str, list[Note]] = defaultdict(list)


@server.tool(scopes={"notes:write"})
async def add_note(text: NoteText, caller: Caller) -> Note:
    """Write down a note."""
    notes = _notes[caller.tenant]
    if len(notes) >= Settings.current().kept:
        raise ToolFailure("There is no room for another note; ask the user which one may go.")
    note = Note(number=next(_numbers), text=text, written=datetime.now(UTC))
    notes.append(note)
    return note


@server.tool(scopes={"notes:read"})
async def search_notes(
    query: Query,
    caller: Caller,
    limit: Annotated[int, Field(ge=1, le=50, description="Most notes to return")] = 10,
) -> list[Note]:
    """Find notes by their text, newest first."""
    wanted = query.casefold()
    found = (note for note in reversed(_notes[caller.tenant]) if wanted in note.text.casefold())
    return [note for note, _ in zip(found, range(limit), strict=False)]
