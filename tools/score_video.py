"""Score videos with a trained detector: events, pictures of them, and a page for each video.

    python -m tools.score_video --workdir=W --out=DIR VIDEO...
    python -m tools.score_video --workdir=W --out=DIR --clips --annotations=videos.json FOLDER
    python -m tools.score_video --workdir=W --out=DIR rtsp://CAMERA

VIDEO is a file, a folder, a glob, or a list (videos.json); or a live source: a URL, a device, or -
for standard input. Videos are encoded by the encoder that the run was trained on, and scored. DIR
gets NAME.html (player, score curve and events), NAME.json, NAME.csv and pictures of the events of
each video, and events.jsonl with the events of all. Repeating the command resumes it: videos whose
content, run and settings are the same are skipped. A video that can't be read doesn't stop the
others: it is named, and the exit status is 3, or 1 if no video is left.
"""

from gvvad_jax.command import UserError, define_flags, from_flags, refuse_flags, run_command
from tools.watching import addresses, sources
from tools.watching.live_options import LiveOptions
from tools.watching.options import ModelOptions, WatchOptions


def main(arguments: list[str]) -> None:
    options, models = from_flags(WatchOptions), from_flags(ModelOptions)
    live_options = from_flags(LiveOptions)
    live_sources = [argument for argument in arguments if addresses.is_live(argument)]
    if live_sources and len(live_sources) < len(arguments):
        files = [argument for argument in arguments if argument not in live_sources]
        shown = addresses.redacted(live_sources[0])
        raise UserError(
            f"expected files or live sources, found both ({files[0]}, {shown}); give "
            "them to two commands"
        )
    if live_sources:
        refuse_flags("a live source", ("annotations", "clips"))
        from tools.watching import live

        live.watch(live_sources, options, live_options, models)
        return
    refuse_flags("files", ("window", "mqtt", "webhook", "home_assistant"))
    from tools.watching import files as watched_files

    watched_files.score(sources.find(arguments, options.annotations), options, models)


if __name__ == "__main__":
    define_flags(WatchOptions, LiveOptions, ModelOptions)
    run_command(main, usage=__doc__, positional=None)
