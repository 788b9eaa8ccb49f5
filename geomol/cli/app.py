"""The list of commands, and `main`, which turns every failure into one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from geomol.cli.audit import audit_command
from geomol.cli.bench import bench_app
from geomol.cli.data import data_app
from geomol.cli.evaluate import eval_command
from geomol.cli.export import export_command
from geomol.cli.failure import INTERRUPTED, report_failure, show_warning
from geomol.cli.info import info_command
from geomol.cli.md import md_command
from geomol.cli.memory import keep_freed_memory, use_large_pages
from geomol.cli.predict import embed_command, predict_command
from geomol.cli.publish import publish_command
from geomol.cli.relax import relax_command
from geomol.cli.report import report_command
from geomol.cli.sample import sample_command
from geomol.cli.score import score_command
from geomol.cli.study import study_command
from geomol.cli.train import train_command

app = typer.Typer(
    name="geomol",
    help="Models of atoms and points in which every symmetry choice is a setting, and its effect is measured.",
    epilog="MODEL is a .safetensors file, a run folder, or the name of a folder in models/. "
    "DATA is a file (.xyz, .extxyz, .traj, .db, .npz) or the name of a data set (geomol data list).",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere in the line.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(version("geomol"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("study")(study_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("predict")(predict_command)
app.command("embed")(embed_command)
app.command("md")(md_command)
app.command("relax")(relax_command)
app.command("audit")(audit_command)
app.command("export")(export_command)
app.command("info")(info_command)
app.command("report")(report_command)
app.command("sample")(sample_command)
app.command("score")(score_command)
app.command("publish")(publish_command)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure is one line on standard error.

    Args:
        arguments: the words after `geomol`; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    keep_freed_memory()
    use_large_pages()
    words = [word for word in words if word != "--debug"]
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            # the command itself rather than app(), which would replace sys.excepthook
            code = typer.main.get_command(app).main(words, prog_name="geomol", standalone_mode=False)
        except (Exception, KeyboardInterrupt) as error:
            return report_failure(error, debug=debug)
    if code == INTERRUPTED:
        print("error: interrupted", file=sys.stderr)
    return int(code or 0)
