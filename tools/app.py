"""A local web page to drop a video on: its events, score curve and pictures, by a trained detector.

    python -m tools.app --workdir=W|hf:USER/NAME

Needs Gradio, in an environment of its own: pip install '.[app]'. The page is served to
this machine alone (127.0.0.1) unless --host says otherwise, and without a login: whoever reaches it
can score videos and use up this machine's time. Nothing is sent to other machines, but pictures to
the server of a run's chat captioner. A video is removed once it is scored, and its page after
--keep_minutes, or when the command ends.
"""

from gvvad_jax.command import define_flags, from_flags, run_command
from tools.serving.options import AppOptions
from tools.watching.options import ModelOptions


def main(_: list[str]) -> None:
    options, models = from_flags(AppOptions), from_flags(ModelOptions)
    from tools.serving import interface

    interface.serve(options, models)


if __name__ == "__main__":
    define_flags(AppOptions, ModelOptions)
    run_command(main, usage=__doc__)
