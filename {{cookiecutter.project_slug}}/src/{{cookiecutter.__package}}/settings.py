"""Your settings, read from the environment beside the chassis's; `refresh` lists them in `.env.example`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from mcp_chassis import ServerSettings


class Settings(ServerSettings):
    """Variables that start with `NOTES_`."""

    model_config = SettingsConfigDict(env_prefix="NOTES_")

    kept: int = Field(1000, ge=1, le=100_000, description="Notes kept for one tenant; further ones are refused")
