"""Which of a domain's videos should give the statistics that standardise it?

Statistics depend on how many videos are abnormal, and where real anomalies are rare the domains
differ in that. Three choices are compared by the probe's regression, which takes seconds and has no
settings. It trains on a draw's real videos and on the generated ones that the filter keeps, and is
measured on the draw's test videos.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from gvvad_jax import regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.regression import Videos
from gvvad_jax.splits import open_splits
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store.files import write_json
from tools.studies import draws, statistics, tables
from tools.studies.grid import Cell, GridStudy
from tools.studies.rows import write_records


def _normal(videos: Videos) -> list[Videos]:
    normal_V = videos.labels_V == 0
    return [videos[normal_V]] if normal_V.any() else [videos]


# Parts of a domain's videos that count the same in its statistics, by the choice's name.
CHOICES: dict[str, Callable[[Videos], list[Videos]]] = {
    "all": lambda videos: [videos],
    "by label": regression.by_label,
    "normal": _normal,
}


@dataclasses.dataclass(frozen=True)
class Standard:
    """A row of the table: what the regression reaches with a choice of statistics.

    Attributes:
      footage, draw, seed, normal, abnormal, gap, clips: as in a study's table; abnormal may be 0.
      statistics: a name of CHOICES.
      real_auc: video-level AUC on the test videos, trained on real videos only; None where these
        have one label.
      auc: the same with the generated videos.
    """

    footage: str
    draw: int
    seed: int
    normal: int
    abnormal: int
    gap: str
    clips: str
    statistics: str
    real_auc: float | None
    auc: float | None


@dataclasses.dataclass(frozen=True)
class _Regression(regression.Regression):
    """The probe's regression with another choice of statistics."""

    parts: Callable[[Videos], list[Videos]]

    def _standards(self, domains: Sequence[Videos]) -> list[Standardisation]:
        return [regression.statistics(self.parts(domain)) for domain in domains]


def measure(study: GridStudy) -> list[Standard]:
    """Measures every draw, seed and number of real videos of a study, and none abnormal at all.

    Raises:
      UserError: a fault of the videos or the flags.
    """
    table: list[Standard] = []
    gap, numbers = study.gap_names[0], [*study.numbers, (study.largest[0], 0)]
    for number in range(study.first_draw, study.first_draw + study.draws):
        draw = draws.prepare(study, number, True)
        for seed in range(study.seeds):
            for normal, abnormal in numbers:
                cell = Cell(
                    study.footage_name,
                    number,
                    seed,
                    normal,
                    abnormal,
                    gap,
                    study.clips_name,
                    "",
                    "",
                )
                table += _of_cell(study, draw, cell)
        write_records(path_of(study), table)
    return table


def path_of(study: GridStudy) -> pathlib.Path:
    """The path of the table, beside the study's."""
    path = pathlib.Path(study.csv)
    return path.with_name(f"{path.stem}_standards.csv")


def _of_cell(study: GridStudy, draw: draws.Draw, cell: Cell) -> list[Standard]:
    path = study.folder / "splits" / f"standards-{pathlib.Path(study.csv).stem}.json"
    write_json(path, draws.subset(draw, cell).to_json())
    clips = draw.clips[cell.gap]
    config = TrainConfig(
        store=draw.store, synthetic_store=clips.store, annotations=str(path), detector="rtfm",
        synthetic_keep=clips.decisions("filter", cell.seed), standardise_by="domain",
        validation_share=0.0,
    )  # fmt: skip
    pools = regression.read(open_splits(config)[0], config)
    rows = []
    for name, parts in CHOICES.items():
        fit = _Regression(config, True, parts)
        aucs = [fit.auc(pools.real, sets, pools.test) for sets in ([], list(pools.sets.values()))]
        rows.append(Standard(*dataclasses.astuple(cell)[:7], name, *aucs))
    return rows


def table_text(table: Sequence[Standard]) -> str:
    """The table as Markdown: mean +- standard deviation over draws and seeds."""
    lines = [
        f"| real videos | {' | '.join(f'statistics: {name}' for name in CHOICES)} | real only |",
        "|---" * (len(CHOICES) + 2) + "|",
    ]
    for normal, abnormal in dict.fromkeys((row.normal, row.abnormal) for row in table):
        rows = [row for row in table if (row.normal, row.abnormal) == (normal, abnormal)]
        columns = [[row.auc for row in rows if row.statistics == name] for name in CHOICES]
        columns.append([row.real_auc for row in rows if row.statistics == "by label"])
        cells = [_cell([value for value in values if value is not None]) for values in columns]
        lines.append(
            f"| {normal} normal + {abnormal} abnormal, n = {len(columns[0])} "
            f"| {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    return tables.spread_text(statistics.spread(values)) if values else "-"
