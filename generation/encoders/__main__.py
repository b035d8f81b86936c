"""Embed a prompt bank alone, without encoding a video.

    python -m generation.encoders --bank=ucf_crime --text_encoder=simcse --out=BANK
    python -m generation.encoders --bank=ucf_crime --text_encoder=simcse --text_weights=FOLDER \\
        --out=BANK

LAP compares the text rows of features with the phrases of a bank, embedded by the same encoder.
The command writes bank.npy and bank.json: into a store that has no bank yet, or into a folder to
copy them from.
"""

import dataclasses
import json
import pathlib

from generation.encoders import banks
from generation.encoders.options import TextOptions
from gvvad_jax.command import UserError, check, define_flags, from_flags, group, run_command

FILES = group("Data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BankFiles:
    """What the command writes, and in which words."""

    out: str = FILES(
        "", "Folder for bank.npy and bank.json, e.g. a store without a bank. Required."
    )
    vocabulary: str = FILES(
        "plain",
        "Words of the phrases: plain for sentences, motion for those of --captioner=rules.",
        choices=banks.VOCABULARIES,
    )

    def __post_init__(self):
        check(self)


def main(_) -> None:
    from generation.encoders import text

    bank_files, options = from_flags(BankFiles), from_flags(TextOptions)
    if not bank_files.out:
        raise UserError("--out: expected a folder, found none; give one")
    folder = pathlib.Path(bank_files.out)
    if (folder / "manifest.json").exists() and (folder / "bank.npy").exists():
        raise UserError(
            f"--out={folder}: expected a store without a bank, or another folder, found one with "
            "a bank of its own; remove its bank.npy and bank.json to replace it"
        )
    encoder = text.make_text_encoder(options)
    prompts = banks.prompt_bank(options.bank, bank_files.vocabulary)
    bank_KxE = encoder([prompt.phrase for prompt in prompts])
    folder.mkdir(parents=True, exist_ok=True)
    banks.save_bank(
        folder, options.bank, prompts, encoder.id, bank_KxE, vocabulary=bank_files.vocabulary
    )
    summary = {"out": str(folder), "bank": options.bank, "encoder": encoder.id}
    print(json.dumps(summary | {"phrases": len(prompts), "dim": encoder.dim}))


if __name__ == "__main__":
    define_flags(BankFiles, TextOptions)
    run_command(main, usage=__doc__)
