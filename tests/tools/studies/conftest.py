import pytest


@pytest.fixture(scope="session")
def pair():
    """Frames of two sound videos of different places."""
    from generation.prompts.grammar import write_grammar
    from generation.world import render  # Needs the extra `video`, without which tests are skipped.

    descriptions = write_grammar(2, 3)[::2]
    return [
        render.render(description, render.WorldOptions(seed=3)).frames_TxHxWx3
        for description in descriptions
    ]
