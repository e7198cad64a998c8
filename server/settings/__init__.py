"""The settings: what there are, where they come from, and what they must say. Import from here."""

from server.settings.faults import SettingsError
from server.settings.loading import load
from server.settings.tables import EndpointSettings, ModelSettings, Settings, default_file

__all__ = [
    "EndpointSettings",
    "ModelSettings",
    "Settings",
    "SettingsError",
    "default_file",
    "load",
]
