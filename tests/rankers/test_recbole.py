"""RecBole's rankers, trained through our code: its splits, its ids, its networks, its numbers."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recrl.cli import main
from recrl.core.contracts import Observation
from recrl.core.errors import ConfigError, DataError
from recrl.policies.items import ItemPolicy, item_spec
from recrl.rankers import RECBOLE_MODELS, SEQUENTIAL, recbole_ranker
from recrl.rankers.evaluation import evaluate_ranking
from recrl.rankers.interactions import TEST, TRAIN, VALID, Interactions
from recrl.rankers.recbole_ranker import RecBoleConfig, fit_recbole
from recrl.rankers.recbole_shims import import_recbole, run_recbole
from tests.rankers.conftest import ITEMS, SEED, SMALL, USERS, cut, taste_frame


@given(st.integers(1, 400))
def test_shares_of_a_user_are_recboles(rows):
    dataset = import_recbole("recbole.data.dataset").Dataset
    ends = dataset._calcu_split_ids(object(), rows, [0.8, 0.1, 0.1])
    one_user = Interactions(
        *(np.arange(rows) * k for k in (0, 1, 1)), np.zeros(rows, np.uint8), np.arange(rows), np.zeros(rows, np.uint8), 1, rows
    )
    part = one_user.ratio(SEED).part
    assert [(part == TRAIN).sum(), (part < TEST).sum()] == ends


def test_leave_one_out_holds_out_the_latest_rows(rows):
    held = rows.leave_one_out()
    order = np.lexsort((rows.time, rows.user))
    for user in range(USERS):
        own = order[rows.user[order] == user]
        wanted = [TRAIN] * own.size
        if own.size >= 3:
            wanted[-1] = TEST
        if own.size >= 4:
            wanted[-2] = VALID
        assert held.part[own].tolist() == wanted


def test_histories_end_before_their_row(rows):
    items, bits = rows.histories(np.arange(len(rows)), 4)
    order = np.lexsort((rows.time, rows.user))
    for place, row in enumerate(order):
        before = [r for r in order[:place] if rows.user[r] == rows.user[row]][-4:]
        assert items[row].tolist() == [-1] * (4 - len(before)) + rows.item[before].tolist()
        assert bits[row].tolist() == [0] * (4 - len(before)) + rows.bits[before].tolist()


@pytest.mark.parametrize("name", list(RECBOLE_MODELS))
def test_the_policy_scores_what_recboles_model_scores(name, rows, monkeypatch):
    """Every user or history, every item: the network of RecBole with its own ids against the policy with dense indices."""
    kept = {}
    original = recbole_ranker._sequence_scores if name in SEQUENTIAL else recbole_ranker._factor_scores

    def keep(*arguments):
        kept["model"], kept["dataset"] = arguments[1:3] if name in SEQUENTIAL else arguments[:2]
        return original(*arguments)

    monkeypatch.setattr(recbole_ranker, original.__name__, keep)
    scores = fit_recbole(name, cut(name, rows), SMALL, seed=SEED).scores
    model, dataset = kept["model"].eval(), kept["dataset"]
    tokens = dataset.field2id_token["item_id"]
    assert tokens[0] == "[PAD]"
    assert sorted(map(int, tokens[1:])) == list(range(ITEMS))
    assert list(map(int, tokens[1:])) != list(range(ITEMS)), "RecBole numbers items as they appear"
    interaction = import_recbole("recbole.data.interaction").Interaction
    if name in SEQUENTIAL:
        histories = [[3], [5, 1], [29, 0, 7, 7, 2, 11], list(range(12))]
        items = torch.tensor([[-1] * (12 - len(h)) + h for h in histories])
        ids = [[dataset.token2id("item_id", str(i)) for i in h[-SMALL.length :]] for h in histories]
        padded = torch.tensor([h + [0] * (SMALL.length - len(h)) for h in ids])
        theirs = model.full_sort_predict(interaction({"item_id_list": padded, "item_length": torch.tensor([len(h) for h in ids])}))
        ours = scores(Observation(history_items=items, history_feedback=torch.zeros_like(items, dtype=torch.uint8)), None)
    else:
        users = torch.arange(USERS)
        # LightGCN keeps the vectors of its last evaluation; the weights are those of the best one
        model.restore_user_e = model.restore_item_e = None
        ids = torch.tensor([dataset.token2id("user_id", str(int(u))) for u in users])
        theirs = model.full_sort_predict(interaction({"user_id": ids})).view(USERS, -1)
        ours = scores(Observation(user=users), None)
        assert bool(scores.known.all()) is True
    dense = torch.tensor([int(t) for t in tokens[1:]])
    torch.testing.assert_close(ours[:, dense], theirs[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(RECBOLE_MODELS))
def test_our_evaluation_is_recboles(name, rows, fitted):
    policy = ItemPolicy(fitted[name].scores, item_spec(ITEMS))
    found = evaluate_ranking(policy, cut(name, rows), VALID)
    assert round(found.recall, 4) == fitted[name].valid["recall@10"]
    assert round(found.ndcg, 4) == fitted[name].valid["ndcg@10"]


@pytest.mark.parametrize("name", ["bpr", "sasrec"])
def test_the_command_gives_the_numbers_of_run_recbole(name, stores, tmp_path, capfd, monkeypatch):
    """RecBole untouched on its own file, in its own row order, against ``recrl train`` on the store: equal to the last digit."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data" / "shuffled" / "shuffled.inter"
    file.parent.mkdir(parents=True)
    frame = taste_frame().select(
        pl.col("user_id").alias("user_id:token"),
        pl.col("item_id").alias("item_id:token"),
        (pl.col("timestamp_ms") / 1000).alias("timestamp:float"),
    )
    frame.write_csv(file, separator="\t")
    asked = {"data_path": str(file.parent.parent), "checkpoint_dir": str(tmp_path / "saved"), "gpu_id": "", "seed": SEED, "epochs": 2}
    asked |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "normalize_all": True, "show_progress": False}
    asked |= {"embedding_size": 8, "MAX_ITEM_LIST_LENGTH": 6}
    asked |= {"metrics": ["Recall", "NDCG", "MRR"], "metric_decimal_place": 10}
    settings = ["metric_decimal_place=10"]
    if name in SEQUENTIAL:
        asked |= {"train_neg_sample_args": None, "hidden_size": 8, "n_layers": 1, "inner_size": 16}
        settings += ["n_layers=1", "inner_size=16"]
    theirs = run_recbole(tmp_path, model=RECBOLE_MODELS[name], dataset="shuffled", config_dict=asked)["test_result"]
    capfd.readouterr()

    words = ["train", name, "--data", "taste", "--stores", str(stores), "--seed", str(SEED), "--ranker.split", "recbole", "--json"]
    words += ["--ranker.positives", "all", "--ranker.order-as", str(file), "--ranker.recbole.epochs", "2", "--ranker.recbole.length", "6"]
    words += ["--ranker.recbole.embedding-size", "8", "--ranker.recbole.settings", *settings]
    assert main(words) == 0
    out, err = capfd.readouterr()
    (line,) = out.strip().splitlines()
    ours = {row["metric"]: row["value"] for row in json.loads(line)["ranking"] if row["part"] == "test"}
    assert ours["recall@10"] == pytest.approx(theirs["recall@10"], abs=1e-9)
    assert ours["ndcg@10"] == pytest.approx(theirs["ndcg@10"], abs=1e-9)
    assert "\x1b" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"data", "saved", "log", "runs"}, (
        "RecBole's own run wrote saved and log, ours only the run"
    )


def test_training_leaves_nothing_and_repeats(rows, fitted, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    with_ray = "ray" in sys.modules  # of another test
    told, slow = [], []

    def tell(done, text):
        told.append(done)
        slow.append(torch.is_anomaly_enabled())

    again = fit_recbole("gru4rec", cut("gru4rec", rows), SMALL, seed=SEED, progress=tell)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)
    assert ("ray" in sys.modules) == with_ray
    assert told == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert not any(slow), "no stack trace for every operation"
    for name, value in fitted["gru4rec"].scores.state_dict().items():
        assert torch.equal(again.scores.state_dict()[name], value)
    other = fit_recbole("gru4rec", cut("gru4rec", rows), SMALL, seed=SEED + 1)
    assert not torch.equal(other.scores.table.weight, again.scores.table.weight)
    names = {row["name"] for row in again.metrics}
    assert names == {"train_loss", "valid_mrr@10"}


@pytest.mark.parametrize("name", ["bpr", "sasrec"])
def test_the_test_part_is_not_trained_on(name, rows):
    """Changing what the test rows show, within RecBole's cut, changes no weight: they only number users and items."""
    held = cut(name, rows)
    # the first rows of the file number every item, whatever follows
    first = np.sort(np.unique(held.item, return_index=True)[1])
    free = np.setdiff1d(held.rows_of(TEST), first)
    item = held.item.copy()
    item[free] = np.roll(item[free], 1)
    assert (item != held.item).any()
    one, other = (fit_recbole(name, x, replace(SMALL, epochs=1), seed=SEED).scores for x in (held, replace(held, item=item)))
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


MISTAKES = [
    ({"epochs": 0}, "epochs=0"),
    ({"settings": ("seed=3",)}, "seed is not for settings"),
    ({"settings": ("epochs=3",)}, "epochs is not for settings"),
    ({"settings": ("loss_type=__import__('os').getcwd()",)}, "cannot be read"),
    ({"settings": ('metrics=["print(1)"]',)}, "cannot be read"),
    ({"settings": ("justaword",)}, "cannot be read"),
    ({"settings": ("hidden_act=relu",)}, "hidden_act=gelu alone"),
    ({"settings": ("n_layer=1",)}, "SASRec has no setting 'n_layer'"),
    ({"settings": ("n_heads=3",)}, "RecBole stopped: The hidden size (64) is not a multiple"),
    ({"settings": ("loss_type=hinge",)}, "RecBole stopped"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_settings_that_recbole_must_not_get(options, message, rows):
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit_recbole("sasrec", rows.leave_one_out(), RecBoleConfig(**options), seed=0)


def test_rows_that_cannot_be_learned_from(rows):
    everything = Interactions(
        np.zeros(3, np.int64), np.arange(3), np.arange(3.0), np.zeros(3, np.uint8), np.arange(3), np.zeros(3, np.uint8), 1, 3
    )
    with pytest.raises(DataError, match="user 0 has seen every item"):
        fit_recbole("bpr", everything, SMALL, seed=0)
    with pytest.raises(DataError, match="no user has enough training rows"):
        fit_recbole("sasrec", replace(everything, part=np.array([0, 1, 2], np.uint8)), SMALL, seed=0)
    with pytest.raises(ConfigError, match="does not train on 'mps'"):
        fit_recbole("bpr", rows.ratio(0), SMALL, seed=0, device="mps")
