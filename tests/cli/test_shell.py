"""What every command shares: how it is called, and how it ends."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from seglab import __version__
from seglab.cli.main import COMMANDS, SCRIPTS, main
from seglab.cli.shell import run_command
from seglab.core.errors import UserError
from tests.blackbox.commands import ROOT, call, environment

Capture = pytest.CaptureFixture[str]
PROLOGUE = "import sys\nfrom seglab.cli.shell import *\n"


def ran(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env=environment(ROOT) | variables,
        capture_output=True,
        text=True,
    )


def ended(error: BaseException, **options: bool) -> int:
    def command(_: None) -> int:
        raise error

    return run_command(command, None, **options)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: Capture, name: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert f"-m seglab {name}" in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items())
def test_a_script_calls_itself_by_its_name(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str, script: str
) -> None:
    monkeypatch.setattr("sys.argv", [f"somewhere/{script}"])
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert "seglab " + name not in told
    assert f"  python {script} experiments/" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("promot losses", "did you mean 'promote'"),
        ("data chek", "did you mean 'data check'"),
        ("", "name a command: "),
        ("list loses", "did you mean 'losses'"),
        ("run", "error: the following arguments are required: file (see"),
        ("run a.yaml --dryrun", "did you mean '--dry-run'"),
        ("run a.yaml --worker 2", "did you mean '--workers'"),
        ("data phantom --out x --patient 3", "did you mean '--patients'"),
        ("data phantom --out x --layout nifty", "did you mean 'nifti'"),
        ("run loses.yaml", "did you mean 'experiments/losses.yaml'"),
        ("run experiments/loses.yml", "did you mean 'experiments/losses.yaml'"),
        ("run losses", "did you mean 'experiments/losses.yaml'"),
        ("run unet.yaml", "did you mean 'experiments/sweeps/unet.yaml'"),
        ("run min.yaml", "did you mean 'mine.yaml'"),
        ("run mine.yaml data.root=phantms", "did you mean 'phantoms'"),
        ("run mine.yaml --arms dice", "the file has no arms, so none is named 'dice'"),
        ("data check --source brats-h5 --root phantoms --out mine.yaml", "is no folder"),
        (
            "evaluate x --source brats23 --root phantoms",
            "--source: unknown data source 'brats23'; allowed: brats-h5, brats-nifti, lgg-tif",
        ),
        (
            "data check --source brats-h5 --root phantoms --out mine.yaml/x",
            "mine.yaml is no folder",
        ),
    ],
)
def test_what_is_none_is_answered_in_one_line_with_the_nearest(
    tmp_path: Path, given: str, told: str
) -> None:
    for name in ("mine.yaml", "experiments/losses.yaml", "experiments/sweeps/unet.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("data: {source: brats-h5, root: nowhere}\n")
    (tmp_path / "phantoms").mkdir()
    call(tmp_path, "seglab", *given.split()).refused(told, lines=1)


def test_the_list_of_commands_names_all(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


def test_the_version_is_told(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"seglab {__version__}\n"


@pytest.mark.parametrize("continues", [True, False])
def test_only_what_goes_on_promises_to(capsys: Capture, continues: bool) -> None:
    assert ended(KeyboardInterrupt(), continues=continues) == 130
    told = capsys.readouterr().err
    assert told.startswith("interrupted")
    assert ("same command continues" in told) is continues


def test_an_interrupt_is_told_by_the_status_wherever_it_hits() -> None:
    """Also in generated code, such as the methods of a dataclass."""
    code = "def work(_):\n    exec('raise KeyboardInterrupt')\nsys.exit(run_command(work, None))"
    assert ran(code).returncode == 130


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("/full/page.html is wrong"), 2),
        (OSError(errno.ENOSPC, "no space", "/full/page.html"), 2),
        (OSError(errno.EROFS, "read-only", "/full/page.html"), 2),
        (FileExistsError(errno.EEXIST, "exists", "/full/page.html"), 1),
        (PermissionError(errno.EPERM, "denied", "/full/page.html"), 1),
        (BrokenPipeError(errno.EPIPE, "broken", "/full/page.html"), 1),
    ],
)
def test_only_a_full_or_read_only_disk_is_the_users_by_its_number(
    capsys: Capture, error: Exception, status: int
) -> None:
    assert ended(error) == status
    told = capsys.readouterr().err
    assert "/full/page.html" in told
    assert (told.count("\n") == 1) is (status == 2)


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "seglab", "list"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_terminal_that_knows_only_ascii_ends_no_command() -> None:
    printed = ran(
        "run_command(lambda _: print('arm · seed 0 – 0.9'), None)", PYTHONIOENCODING="ascii"
    )
    assert printed.stdout.startswith("arm ")
    assert printed.stderr == ""
