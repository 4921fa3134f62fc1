"""What every command shares: how it is called, and how it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seglab.cli.main import COMMANDS, SCRIPTS, main
from seglab.cli.shell import run_command
from seglab.core.errors import UserError

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
PROLOGUE = "import sys\nfrom seglab.cli.shell import *\n"


def ran(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
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
        (["promot", "losses"], "did you mean 'promote'"),
        (["data", "chek"], "did you mean 'data check'"),
        ([], "name a command: "),
    ],
)
def test_a_command_that_is_none_is_answered(capsys: Capture, given: list[str], told: str) -> None:
    assert main(given) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["run", "a.yaml", "--dryrun"], "did you mean '--dry-run'"),
        (["run", "a.yaml", "--worker", "2"], "did you mean '--workers'"),
        (["data", "phantom", "--out", "x", "--patient", "3"], "did you mean '--patients'"),
        (["data", "phantom", "--out", "x", "--layout", "nifty"], "did you mean 'nifti'"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(
    capsys: Capture, given: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("loses.yaml", "did you mean 'experiments/losses.yaml'"),
        ("experiments/loses.yml", "did you mean 'experiments/losses.yaml'"),
        ("losses", "did you mean 'experiments/losses.yaml'"),
        ("unet.yaml", "did you mean 'experiments/sweeps/unet.yaml'"),
        ("min.yaml", "did you mean 'mine.yaml'"),
        ("mine.yaml data.root=phantms", "did you mean 'phantoms'"),
        ("mine.yaml --arms dice", "unknown arm 'dice': there is none"),
    ],
)
def test_a_file_or_folder_that_is_none_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, given: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "experiments/losses.yaml", "experiments/sweeps/unet.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("data: {source: brats-h5, root: nowhere}\n")
    Path("phantoms").mkdir()
    assert main(["run", *given.split()]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1


def test_the_list_of_commands_names_all(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


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


def test_a_file_where_the_page_should_go_is_named(
    phantoms: Path, tmp_path: Path, capsys: Capture
) -> None:
    there = tmp_path / "taken"
    there.write_text("")
    given = ["data", "check", "--source", "brats-h5", "--root", str(phantoms), "--out"]
    for out in (there, there / "below"):
        with pytest.raises(SystemExit) as stopped:
            main([*given, str(out)])
        assert stopped.value.code == 2
        told = capsys.readouterr().err
        assert f"{there} is no folder" in told
        assert told.count("\n") == 1


def test_a_terminal_that_knows_only_ascii_ends_no_command() -> None:
    printed = ran(
        "run_command(lambda _: print('arm · seed 0 – 0.9'), None)", PYTHONIOENCODING="ascii"
    )
    assert printed.stdout.startswith("arm ")
    assert printed.stderr == ""
