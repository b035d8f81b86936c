"""Prints a run's measures beside the published ones of its benchmark, as a Markdown table.

    python -m tools.compare_published --data_set=ucf-crime --workdir=W
    python -m tools.compare_published --data_set=xd-violence --measures=M.json

--measures takes what evaluate printed, e.g. of scores from elsewhere. Without either, the published
numbers are printed alone. They are in tools/published/numbers.csv, with the source of each.
"""

from absl import flags

from gvvad_jax.command import UserError, run_command
from tools.published import numbers


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if values.workdir and values.measures:
        raise UserError("expected --workdir or --measures, found both; leave one out")
    if not values.data_set:
        if values.workdir or values.measures:
            raise UserError(
                "--data_set: expected the benchmark that was measured, found none; name one"
            )
        print(numbers.tables())
        return
    data_set = numbers.data_set_named(values.data_set)
    path = values.workdir or values.measures
    print(numbers.table(data_set, numbers.measures_of(path) if path else {}, path))


if __name__ == "__main__":
    flags.DEFINE_string(
        "data_set", "", "Benchmark, e.g. ucf-crime, xd-violence or shanghaitech. Required."
    )
    flags.DEFINE_string("workdir", "", "Run folder whose result.json is compared.")
    flags.DEFINE_string("measures", "", "File with what evaluate printed, to compare instead.")
    run_command(main, usage=__doc__)
