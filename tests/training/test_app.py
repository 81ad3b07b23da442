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
    for command in (commands.train, commands.evaluate, commands.export):
        app.command()(command)
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, MienError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: mien {command} " in " ".join(run(command, "--help").split())


def test_train_export_evaluate_in_a_row(tiny_csv: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the training extra")
    out, model, data = tmp_path / "run", tmp_path / "model.onnx", str(tiny_csv)

    told = run(
        "train", "cnn", "--data", data, "--out", str(out), "--epochs", "1", "--batch-size", "14",
        "--threads", "1",
    )  # fmt: skip
    assert "epoch 1/1" in told
    assert f"mien export --checkpoint {out / 'best.ckpt'}" in told

    told = run(
        "export", "--checkpoint", str(out / "best.ckpt"), "--data", data, "--out", str(model)
    )
    assert told.startswith(f"{model}: 3.")

    measured = json.loads(run("evaluate", "--model", str(model), "--data", data, "--json"))
    assert measured["model"]["name"] == "mien-cnn"
    assert list(measured["splits"]) == [
        "PublicTest",
        "PrivateTest",
        "PrivateTest without copies in Training",
    ]
    assert measured["splits"]["PublicTest"]["n"] == 14

    told = run("evaluate", "--model", str(model), "--data", data, "--split", "PublicTest")
    assert "PublicTest: 14 pictures" in told
    assert "PrivateTest" not in told


def test_mistakes_are_one_sentence(tiny_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the data .*none\.csv"):
        run("evaluate", "--data", str(tmp_path / "none.csv"))
    with pytest.raises(ModelError, match=r"cannot read the model .*none\.onnx"):
        run("evaluate", "--model", str(tmp_path / "none.onnx"), "--data", str(tiny_csv))
    pytest.importorskip("torch", reason="needs the training extra")
    with pytest.raises(SettingsError, match="there is no model 'lstm'; known: cnn"):
        run("train", "lstm", "--data", str(tiny_csv))


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
for command in (lambda: app.train("cnn", data), lambda: app.export(Path("x.ckpt"), data)):
    try:
        command()
    except SettingsError as error:
        print(error)
app.evaluate(data, None, app.Split.PUBLIC)
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
