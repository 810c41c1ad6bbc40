"""Where the parts are, when they are not those of a state folder: in the environment.

The names are those of gateway and dispatcher, with the prefix `TRITONQ_`: POSTGRES_DSN and
NATS_TOKEN (or …_FILE), NATS_URL, NAMESPACE, BLOBS_URL.
"""

from pydantic_settings import SettingsConfigDict

from configuration.process import ProcessSettings


class ArchiveSettings(ProcessSettings):
    """Prefix `TRITONQ_`."""

    model_config = SettingsConfigDict(env_prefix="TRITONQ_")
