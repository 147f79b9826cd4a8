"""Notes: typed arguments, typed results, each tenant with its own: the database sees to that."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mcp_chassis import ToolFailure
from mcp_chassis.database import OfTenant

from ..server import server
from ..settings import Settings

NoteText = Annotated[str, Field(min_length=1, max_length=2000, description="What to remember")]
Query = Annotated[str, Field(min_length=1, max_length=200, description="Text that the notes must contain")]

database = server.database()


class Note(BaseModel):
    """One note."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    text: str
    written: datetime


class Base(DeclarativeBase):
    """Your tables."""


class Row(OfTenant, Base):
    """A note as it is kept; `migrations/` makes the table."""

    __tablename__ = "notes"

    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    written: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


@server.tool(scopes={"notes:write"})
async def add_note(text: NoteText) -> Note:
    """Write down a note."""
    async with database.session() as session:
        if (await session.scalar(select(func.count()).select_from(Row)) or 0) >= Settings.current().kept:
            raise ToolFailure("There is no room for another note; ask the user which one may go.")
        row = Row(text=text)
        session.add(row)
        await session.flush()
        return Note.model_validate(row)


@server.tool(scopes={"notes:read"})
async def search_notes(
    query: Query,
    limit: Annotated[int, Field(ge=1, le=50, description="Most notes to return")] = 10,
) -> list[Note]:
    """Find notes by their text, newest first."""
    wanted = select(Row).where(Row.text.icontains(query, autoescape=True))
    async with database.session() as session:
        rows = await session.scalars(wanted.order_by(Row.number.desc()).limit(limit))
        return [Note.model_validate(row) for row in rows]
