"""The profiles as part of a wheel; ``sources`` in pyproject.toml moves folders only, and they are a file."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Profiles(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":  # an editable install is a .pth entry and nothing else
            build_data["force_include"]["papermill_runs.yaml"] = "seaplib/workbench/papermill_runs.yaml"
