"""Two runs of these tests side by side, which share the work: each takes the next file that is not begun."""

from __future__ import annotations

from pathlib import Path


class Share:
    """One run's part. The runs have `folder` in common, in which a file of its name stands for each taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: dict[str, bool] = {}

    def takes(self, name: str) -> bool:
        """Whether the test file of this name is for this run; the first that asks gets it."""
        if name not in self._answers:
            try:
                (self._folder / name).touch(exist_ok=False)
            except FileExistsError:
                self._answers[name] = False
            else:
                self._answers[name] = True
        return self._answers[name]
