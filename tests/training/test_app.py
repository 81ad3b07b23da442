"""The three commands as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training import app as commands
from worker.errors import DataError, MienError, ModelError, SettingsError

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    """Standard output of one command; a MienError comes through as itself."""
    app = typer.Typer()
    for command in (commands.train, commands.evaluate, commands.export, commands.data):
        app.command()(command)
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, MienError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "export", "data"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: mien {command} " in " ".join(run(command, "--help").split())


CONFIG = """
batch_size = 14
auxiliary_weight = 1.0
[model]
network = "small-cnn"
[[phases]]
epochs = 5
learning_rate = 0.1
"""


def test_train_export_evaluate_in_a_row(
    tiny_csv: Path, tiny_votes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the training extra")
    monkeypatch.setenv("MIEN_FER2013", str(tiny_csv))
    monkeypatch.setenv("MIEN_FERPLUS", str(tiny_votes))
    out, model, config = tmp_path / "run", tmp_path / "model.onnx", tmp_path / "mine.toml"
    config.write_text(CONFIG)

    told = run(
        "train", "--config", str(config), "--out", str(out), "--max-epochs", "1", "--threads", "1"
    )
    assert "epoch 1/1" in told
    assert f"mien export --checkpoint {out / 'best.ckpt'}" in told

    told = run("export", "--checkpoint", str(out / "best.ckpt"), "--out", str(model))
    assert told.startswith(f"{model}: 3.")

    told = run("evaluate", "--model", str(model))
    assert "PublicTest: 14 pictures" in told
    assert "PrivateTest" not in told

    ledger, report = tmp_path / "ledger.csv", tmp_path / "report"
    final = ["evaluate", "--model", str(model), "--final", "--ledger", str(ledger)]
    measured = json.loads(run(*final, "--out", str(report), "--sample", "3", "--json"))
    assert measured["model"]["name"] == "mien-cnn"
    assert measured["robustness"]["n"] == 3
    assert list(measured["sets"]) == [
        "PublicTest",
        "PrivateTest",
        "PrivateTest without copies in Training",
        "PublicTest + PrivateTest",
    ]
    assert json.loads((report / "report.json").read_text())["sets"] == measured["sets"]
    assert (report / "report.html").exists()
    assert len(ledger.read_text().splitlines()) == 2

    # The second head of the same network.
    told = run(
        "export", "--checkpoint", str(out / "best.ckpt"), "--labels", "ferplus",
        "--out", str(model), "--name", "mien-ferplus",
    )  # fmt: skip
    assert "12 pictures" in run("evaluate", "--model", str(model))


def test_the_data_report(tiny_csv: Path, tiny_votes: Path) -> None:
    told = run("data", "--data", str(tiny_csv), "--votes", str(tiny_votes), "--exact")
    assert "disgust" in told
    found = json.loads(run("data", "--data", str(tiny_csv), "--exact", "--json"))
    assert isinstance(found, dict)


def test_mistakes_are_one_sentence(tiny_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the data .*none\.csv"):
        run("evaluate", "--data", str(tmp_path / "none.csv"))
    with pytest.raises(ModelError, match=r"cannot read the model .*none\.onnx"):
        run("evaluate", "--model", str(tmp_path / "none.onnx"), "--data", str(tiny_csv))
    with pytest.raises(SettingsError, match="--ledger is for --final"):
        run("evaluate", "--data", str(tiny_csv), "--ledger", str(tmp_path / "ledger.csv"))
    pytest.importorskip("torch", reason="needs the training extra")
    with pytest.raises(SettingsError, match="no experiment 'lstm'; known: best/cnn"):
        run("train", "lstm", "--data", str(tiny_csv))
    with pytest.raises(SettingsError, match="name one experiment"):
        run("train", "--data", str(tiny_csv))
    with pytest.raises(SettingsError, match="name one experiment"):
        run("train", "cnn", "--config", "x.toml", "--data", str(tiny_csv))
    with pytest.raises(DataError, match="give their file with --votes"):
        run("train", "cnn", "--data", str(tiny_csv), "--out", str(tmp_path / "run"))
    with pytest.raises(SettingsError, match="small-cnn has no pretrained weights"):
        run("train", "cnn", "--weights", "imagenet", "--data", str(tiny_csv))


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning", "onnx", "facenet_pytorch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from pathlib import Path
from training import app
from worker.errors import SettingsError
data = Path(sys.argv[1])
for command in (lambda: app.train(data, "cnn"), lambda: app.export(Path("x.ckpt"), data)):
    try:
        command()
    except SettingsError as error:
        print(error)
app.evaluate(data)
"""


def test_without_the_training_extra(tiny_csv: Path) -> None:
    """train and export say what is missing; evaluate needs none of it."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny_csv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    train, export, *rest = result.stdout.splitlines()
    assert train == "mien train needs the training extra: pip install 'mien[training]'"
    assert export == "mien export needs the training extra: pip install 'mien[training]'"
    assert rest[0] == "PublicTest: 14 pictures"


def test_the_commands_module_does_not_load_torch() -> None:
    code = (
        "import sys, training.app; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
