"""What RecBole needs is there while it runs, and gone after it."""

from __future__ import annotations

import os
import pickle
import random
import sys

import numpy as np
import pytest
import scipy.sparse
import torch

from recrl.core.errors import MissingDependencyError
from recrl.rankers.recbole_shims import import_recbole, use_recbole


class Unsafe:
    """Something that only unpickling brings back."""


def process() -> dict[str, object]:
    """Everything of the process that RecBole touches."""
    return {
        "numpy": {name: id(value) for name, value in vars(np).items()},
        "sparse": hasattr(scipy.sparse.dok_matrix, "_update"),
        "load": torch.load,
        "argv": list(sys.argv),
        "python": random.getstate(),
        "legacy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "anomalies": torch.is_anomaly_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "disabled": __import__("logging").root.manager.disable,
        "streams": (sys.stdout, sys.stderr),
    }


def test_aliases_are_there_inside(tmp_path):
    with use_recbole(tmp_path):
        assert [getattr(np, name) for name in ("float_", "complex_", "unicode_")] == [np.float64, np.complex128, np.str_]
        matrix = scipy.sparse.dok_matrix((2, 2))
        matrix._update({(0, 1): 3.0})
        assert matrix.toarray().tolist() == [[0.0, 3.0], [0.0, 0.0]]
        # RecBole's configuration reads the command line and sets more aliases
        sys.argv.append("--epochs=7")
        config = import_recbole("recbole.config").Config(model="BPR", dataset="ml-100k", config_dict={"gpu_id": "", "epochs": 2})
        assert config["epochs"] == 7
    assert not hasattr(np, "float_")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(tmp_path, fails, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recrl", "train", "--learning_rate=9"])
    import_recbole("recbole.trainer")
    before = process()
    try:
        with use_recbole(tmp_path):
            config = import_recbole("recbole.config").Config(model="BPR", dataset="ml-100k", config_dict={"gpu_id": ""})
            assert config["learning_rate"] == 0.001, "the command line is ours, not RecBole's"
            import_recbole("recbole.utils").init_seed(5, False)
            # one of these modules turns anomaly detection on when it is imported
            for name in [name for name in sys.modules if name.startswith("recbole.model.sequential_recommender")]:
                monkeypatch.delitem(sys.modules, name)
            import_recbole("recbole.model.sequential_recommender")
            assert torch.is_anomaly_enabled()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert process() == before
    assert not list(tmp_path.iterdir())


def test_only_files_of_its_own_folder_are_unpickled(tmp_path):
    own, foreign = tmp_path / "own", tmp_path / "foreign.pth"
    own.mkdir()
    for path in (own / "model.pth", foreign):
        torch.save({"state": Unsafe()}, path)
    (own / "link.pth").symlink_to(foreign)
    with use_recbole(own):
        assert isinstance(torch.load(str(own / "model.pth"), map_location="cpu")["state"], Unsafe)
        for path in (foreign, own / "link.pth"):
            with pytest.raises(pickle.UnpicklingError):
                torch.load(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(own / "model.pth")


@pytest.mark.parametrize(("absent", "what"), [("recbole", "RecBole is not installed"), ("colorlog", "RecBole needs colorlog")])
def test_without_recbole_the_mend_is_named(tmp_path, monkeypatch, absent, what):
    for name in [n for n in sys.modules if n.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingDependencyError) as found, use_recbole(tmp_path):
        pass
    assert what in found.value.what
    assert found.value.mend == "pip install 'recrl[recbole]' && pip install --no-deps recbole==1.2.1"
    assert not hasattr(np, "float_")
