"""What is known of a feature set while it is checked."""

import collections
import dataclasses
import sys
from collections.abc import Sequence

from tools.importing.checks import Content, Fault
from tools.importing.layouts import Layout
from tools.importing.reading import Array
from tools.importing.videos import Video


@dataclasses.dataclass
class ImportPlan:
    """What is known of a set while it is checked.

    Attributes:
      members: the videos that have had no fault so far.
      layouts: layout by source and split.
      segmented: of how many segments a source's videos are; 0 for videos of their own length.
      texts: text array by the videos' keys.
      faults: all that is wrong.
      contents: what was read of each array, by its text.
    """

    members: list[Video]
    layouts: dict[tuple[str, str], Layout]
    segmented: dict[tuple[str, str], int]
    texts: dict[str, Array]
    faults: list[Fault]
    contents: dict[str, Content] = dataclasses.field(default_factory=dict)

    def drop(self, new: Sequence[Fault]) -> None:
        """Leaves videos with faults out of what follows, and remembers the faults."""
        self.faults += new
        keys = {fault.video for fault in new}
        self.members = [video for video in self.members if video.key not in keys]

    @property
    def by_source(self) -> dict[tuple[str, str], list[Video]]:
        """The members by source and split."""
        grouped = collections.defaultdict(list)
        for video in self.members:
            grouped[video.source].append(video)
        return dict(grouped)


def say(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr)
