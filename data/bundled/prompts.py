"""The benchmark's prompts, read from the lm-eval configurations, so that training and scoring agree."""

import ast
from pathlib import Path

import jinja2
import yaml

HERE = Path(__file__).parent


class Prompt:
    """One task's prompt: ``row -> (context, options, index of the right one)``."""

    def __init__(self, task: str):
        self.config = yaml.safe_load((HERE / "lm_eval" / f"mini_{task}.yaml").read_text())
        environment = jinja2.Environment(keep_trailing_newline=True)
        self._templates = {
            k: environment.from_string(str(self.config[f"doc_to_{k}"])) for k in ("text", "choice", "target")
        }

    def _value(self, part: str, row: dict):
        """A column of that name, a literal list, or the rendered template."""
        given = self.config[f"doc_to_{part}"]
        if isinstance(given, list):
            return given
        return row[given] if given in row else ast.literal_eval(self._templates[part].render(**row))

    def __call__(self, row: dict) -> tuple[str, list[str], int]:
        return self._templates["text"].render(**row), list(self._value("choice", row)), int(self._value("target", row))
