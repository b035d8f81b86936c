import pytest

from generation import prompts, world


@pytest.fixture(scope="session")
def pair():
    """Frames of two sound videos of different places."""
    descriptions = prompts.write_grammar(2, 3)[::2]
    return [
        world.render(description, domain="generated", seed=3).frames_TxHxWx3
        for description in descriptions
    ]
