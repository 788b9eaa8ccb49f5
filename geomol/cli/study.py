"""`geomol study FILE.toml`: a grid of choices, every cell trained and measured alike, with what follows in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from geomol.checkpoint.atomic import write_atomically
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.cli.progress import progress_bar
from geomol.generate.sampling import SampleSettings
from geomol.study import CellResult, cells, load_study, outcome, run_study, sentences, study_figures, study_table
from geomol.train import Progress


def study_command(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Axes of choices; see examples/studies/.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Results; runs/NAME/results by default.")
    ] = None,
    folder: Annotated[str, typer.Option("--runs", metavar="FOLDER", help="Where runs/NAME is made.")] = "runs",
    list_only: Annotated[bool, typer.Option("--list", help="Check the grid and list its runs only.")] = False,
    molecules: Annotated[int, typer.Option("--molecules", min=1, help="Sampled from each generator.")] = 500,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Noise levels in sampling, by Heun's method.")] = 50,
    json_file: JsonOption = None,
) -> None:
    """Answer a question by a grid of runs. Interrupted, the same command goes on; what is finished is not repeated."""
    study = load_study(file)
    grid = cells(study, file.parent, folder=folder)
    console = console_for(json_file)
    if list_only:
        for cell in grid:
            console.print(f"{cell.run.name}: " + ", ".join(f"{a} {c}" for a, c in cell.choices.items()), soft_wrap=True)
        console.print(f"{len(grid)} runs")
        write_json({"runs": [cell.run.name for cell in grid]}, json_file)
        return
    target = out or Path(folder) / study.name / "results"
    target.mkdir(parents=True, exist_ok=True)
    with progress_bar("study") as bar:

        def show(done: int, name: str, progress: Progress) -> None:
            if bar.due():
                fraction = (done + progress.fraction) / len(grid)
                bar.update(min(fraction, 0.999), f"{done} of {len(grid)} runs  {name}  loss {progress.loss:.3g}")

        def tell(done: int, name: str, found: CellResult) -> None:
            bar.report(f"{done} of {len(grid)} runs  {name}: {outcome(grid[0].run.task, found)}")

        def wait(left: int) -> None:
            bar.report(f"{len(grid) - left} of {len(grid)} runs  waiting for {left} of other processes")

        sampling = SampleSettings(steps=steps)
        result = run_study(
            study,
            grid,
            target,
            molecules=molecules,
            sampling=sampling,
            on_progress=show,
            on_result=tell,
            on_wait=wait,
        )
    text = study_table(result)
    said = sentences(result)
    head = f"# {study.name}\n\n{study.question}\n\n" if study.question else f"# {study.name}\n\n"
    page = head + "".join(f"- {sentence}\n" for sentence in said) + "\n" + text
    console.print(Markdown(page))
    write_atomically(target / "README.md", page.encode())
    write_json(result.figures(), str(target / "results.json"))
    for name, figure in study_figures(result).items():
        figure.savefig(target / f"{name}.png", metadata={"Software": None})
        console.print(f"plot: {target / name}.png", soft_wrap=True)
    write_json({**result.figures(), "summary": said}, json_file)
