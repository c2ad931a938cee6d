"""Adds to a wheel what is a file beside the package: the profiles. (``sources`` in pyproject.toml moves folders only.)"""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Profiles(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":  # an editable install is a .pth entry and nothing else
            build_data["force_include"]["papermill_runs.yaml"] = "seaplib/workbench/papermill_runs.yaml"
