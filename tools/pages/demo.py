"""The demo's page: the finding, a study's plot, tables, videos that play beside their scores."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tools.pages import player, rarity
from tools.pages.rendering import render
from tools.studies import arms, findings
from tools.studies.curves import Curve
from tools.studies.runs import MEASURES as RULE_MEASURES

# Flags that differ from run to run.
_RUN_FLAGS = ("--store=", "--synthetic_store", "--synthetic_keep", "--workdir=", "--seed=",
              "--annotations=")  # fmt: skip


def page(
    result: Mapping[str, Any],
    curves: Sequence[Curve],
    study: pathlib.Path = rarity.TABLE,
) -> str:
    """Renders the demo's result as HTML.

    Args:
      result: what tools.studies.arms.run returns.
      curves: the test videos that are shown.
      study: the table of the study whose plot is shown.
    """
    by_name, train_flags = result["arms"], result["flags"].splitlines()
    data_flags = [f"--{k}={v}" for k, v in result["plan"].items() if v not in (None, "")]
    counts = result["filter"]
    names = {arm.name: arm.row for arm in arms.ARMS}
    return render(
        "demo.html",
        result=result,
        rendered=findings.RENDERED,
        detector=findings.detector_name(result["detector"]),
        header=[f"{title} {findings.direction(m)}" for m, title in findings.NAMES.items()],
        arms=[_arm_row(result, name) for name in by_name],
        differences=[_difference_row(name, arm) for name, arm in list(by_name.items())[1:]],
        rules=[_rule_row(rule, entry) for rule, entry in result["rules"].items()],
        filtered=[
            ["kept", counts["kept"]],
            ["dropped", counts["dropped"]],
            *([f"dropped: {reason}", count] for reason, count in counts["reasons"].items()),
        ],
        caught=[[name, *numbers] for name, numbers in (result["caught"] or {}).items()],
        rarity=rarity.plot(result["detector"], names, study),
        videos=[player.player(curve) for curve in curves],
        thresholds=list(result["thresholds"].items()),
        data_flags="\n".join(data_flags),
        train_flags="\n".join(line for line in train_flags if not line.startswith(_RUN_FLAGS)),
        provenance=json.dumps(result["provenance"], indent=1),
    )


def _arm_row(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    arm, trained = result["arms"][name], result["trained"].get(name)
    cells = [
        {
            "mean": f"{arm[m]['mean']:.3f}",
            "sd": f"± {arm[m]['sd']:.3f}",
            "best": name in findings.best(result["arms"], m),
        }
        for m in findings.NAMES
    ]
    added = f"{trained['abnormal']} abnormal, {trained['normal']} normal" if trained else ""
    return {"name": name, "added": added, "cells": cells}


def _difference_row(name: str, arm: Mapping[str, Any]) -> dict[str, Any]:
    cells = [
        {"mean": f"{d['mean']:+.3f}", "sd": f"± {d['sd']:.3f} ({d['wins']})", "best": False}
        for d in (arm["difference"][m] for m in findings.NAMES)
    ]
    return {"name": name, "added": "", "cells": cells}


def _rule_row(rule: str, entry: Mapping[str, Any]) -> list[str]:
    name = rule + (", sign flipped" if entry["flipped"] else "")
    return [name, *(f"{entry[m]:.3f}" for m in RULE_MEASURES)]
