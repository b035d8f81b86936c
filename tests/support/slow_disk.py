"""A disk that is slow with some checkpoints."""

import asyncio

from orbax.checkpoint._src.path import atomicity


def delay_commits(monkeypatch, kind):
    """Has the disk be slow with checkpoints of a kind; returns a list of what is committed."""
    finalize, committed = atomicity.AtomicRenameTemporaryPath.finalize, []

    async def slow(self):
        path = self.get_final()
        is_whole = path.name.isdigit()
        if is_whole and path.parent.name == kind:
            await asyncio.sleep(0.5)
        await finalize(self)
        if is_whole:
            committed.append(f"{path.parent.name}/{path.name}")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", slow)
    return committed
