"""The five-fold benchmark of the fitted simulator in its small form: a log that the simulator's own laws have written, two user folds."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "calibration.py")


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(sys, "argv", ["calibration.py", "--small", "--json"])
        patch.setattr("builtins.print", lambda *text, **where: lines.append(str(text[0])) if "file" not in where else None)
        runpy.run_path(SCRIPT, run_name="__main__")
    return json.loads(lines[-1])


def test_users_are_held_out_once_and_described(found):
    """Seeds are fixed; on others a fold leaves the bounds of rates (Bonferroni at 5 %) or hazards (3 standard errors) one time in ten."""
    folds = found["folds"]
    assert [fold["fold"] for fold in folds] == [0, 1]
    assert all(rate["holds"] for fold in folds for rate in fold["rates"])
    assert all(day["holds"] for fold in folds for day in fold["hazards"])
    assert all(fold["click_given_long_view"]["holds"] for fold in folds)
    assert {rate["quantity"] for rate in folds[0]["rates"]} == {"click", "long_view", "like", "comment", "forward", "follow", "hate"}


def test_areas_stand_beside_their_rivals(found):
    (click,) = (row for row in found["areas"]["latent"] if row["behaviour"] == "click")
    # tastes were planted: items alone tell little, the user's own rows tell more
    assert click["over_popularity"][0] > 0.05
    assert click["popularity"] < click["lightgbm_running"]
    assert found["holds"]["latent"]["rates"] == "14 of 14"


def test_the_published_law_is_judged_apart(found):
    law = found["published"]
    assert law["next_day"]["published"] == 0.617
    # 4,533 sessions: four standard errors are .03
    assert law["next_day"]["simulated"] == pytest.approx(0.617, abs=0.03)
    assert law["churn_share_of_sessions"] < 0.05
