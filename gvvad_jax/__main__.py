"""gvvad: every command of the project under one name.

gvvad COMMAND [--flag=value ...]        the same as python -m MODULE [--flag=value ...]
gvvad COMMAND --help
gvvad --version
"""

import difflib
import importlib.metadata
import importlib.util
import runpy
import sys

from gvvad_jax import command

# By stage: the command's name, the module that it runs, and what it does.
STAGES = {
    "See it work": {
        "demo": ("tools.demo", "Run everything once on the built-in world and write a report."),
    },
    "Data": {
        "encode": ("generation.encode", "Encode videos into a feature store."),
        "bank": ("generation.encoders", "Embed a prompt bank alone."),
        "store": ("gvvad_jax.store", "Validate a feature store and print a summary."),
        "import-features": ("tools.import_features", "Import features that others extracted."),
        "import-truth": ("tools.import_truth", "Import ground truth of any format."),
    },
    "Generated videos": {
        "pipeline": ("generation.pipeline", "Run every stage from descriptions to decisions."),
        "prompts": ("generation.prompts", "Write descriptions of normal and abnormal scenes."),
        "videos": ("generation.videos", "Generate a video from each description."),
        "filter": ("generation.filter", "Decide which generated videos to train on."),
        "filter-report": ("tools.filter_report", "Show the filter's decisions on an HTML page."),
        "generation-budget": ("tools.generation_budget", "Estimate a generated store's cost."),
    },
    "Detector": {
        "probe": ("tools.probe", "Find out before training which generated videos help."),
        "train": ("gvvad_jax.train", "Train a detector on real and generated videos."),
        "evaluate": ("gvvad_jax.evaluate", "Measure a detector, or any scores, frame by frame."),
        "score": ("gvvad_jax.score", "Score videos with a trained detector."),
        "calibrate": ("tools.calibrate", "Fit a detector to a camera by its normal footage."),
        "report": ("tools.report", "Compare training runs on one page."),
        "export": ("tools.export", "Export a detector to ONNX or StableHLO."),
        "app": ("tools.app", "Serve a local page to drop videos on."),
        "import-checkpoint": ("tools.import_checkpoint", "Import a published checkpoint."),
        "compare-published": (
            "tools.compare_published",
            "Print a run's measures beside published ones.",
        ),
    },
    "Own videos and cameras": {
        "watch": ("tools.score_video", "Find events in videos and live sources, with pictures."),
    },
    "Studies and checks": {
        "study": ("tools.study", "Run many trainings that answer one question."),
        "study-windows": ("tools.study_windows", "Measure what live scoring costs in AUC."),
        "study-cameras": (
            "tools.study_cameras",
            "Measure what other cameras and re-encoding cost.",
        ),
        "filter-suite": ("tools.filter_suite", "Measure how well the filter finds defects."),
        "check-world": ("tools.check_world", "Check that the built-in world is a fair problem."),
        "reference-step": ("tools.reference_step", "Compare a detector with published numbers."),
        "bench": ("tools.bench", "Measure how fast training and scoring are."),
        "bench-encode": ("tools.bench_encode", "Measure how fast encoding is."),
        "bench-live": ("tools.bench_live", "Measure cameras a core, delay and memory."),
    },
}
COMMANDS = {name: entry for commands in STAGES.values() for name, entry in commands.items()}
MODULES = tuple(module for module, _ in COMMANDS.values())


def overview() -> str:
    """Returns the list of all commands by stage."""
    width = max(map(len, COMMANDS)) + 2
    lines = [(__doc__ or "").strip(), ""]
    for stage, commands in STAGES.items():
        lines.append(f"{stage}:")
        lines += [f"  {name:{width}s}{text}" for name, (_, text) in commands.items()]
        lines.append("")
    return "\n".join(lines[:-1])


def main() -> None:
    """Runs the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        command.print_help(overview())
        sys.exit(0)
    if arguments[0] == "--version":
        print(f"gvvad-jax {importlib.metadata.version('gvvad-jax')}")
        sys.exit(0)
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {similar[0]}?" if similar else "gvvad --help lists the commands"
        print(f"error: {arguments[0]}: expected a command; {remedy}", file=sys.stderr)
        sys.exit(2)
    module = COMMANDS[name][0]
    command.COMMAND_NAMES.update({there: f"gvvad {name}" for name, (there, _) in COMMANDS.items()})
    # As `python -m MODULE` has it: commands that start themselves anew go by it.
    found = importlib.util.find_spec(module)
    sys.argv = [(found and found.origin) or module, *arguments[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
