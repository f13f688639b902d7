"""What `recrl ab` prints."""

from __future__ import annotations

from recrl.console import Talk
from recrl.verbs.ab import print_effects


def test_a_behaviour_that_never_happened_is_named_once_and_has_no_row(capsys):
    def row(arm: str, metric: str, mean: float) -> dict[str, object]:
        common = {"scenario": "fitted", "baseline": "random", "baseline_mean": 0.2 if metric == "click" else 0.0, "verdict": "no call"}
        return {"metric": metric, "arm": arm, "mean": mean, "effect": 0.0, "lower": 0.0, "upper": 0.0, **common}

    rows = [row(arm, metric, mean) for metric, mean in (("click", 0.2), ("hate", 0.0)) for arm in ("random", "popularity")]
    print_effects(rows, [], Talk())
    told = capsys.readouterr().out
    assert told.count("click") == 1
    assert told.count("hate") == 1
    assert "0 in every arm, so not shown: hate" in told
