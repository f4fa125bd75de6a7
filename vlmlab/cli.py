"""The command line: `vlmlab ...`. Notebook 00 shows it.

Errors that a user can mend are one line on stderr and exit code 2; a failed check, notebook or test is exit code 1;
Ctrl-C is exit code 130. Model code is imported by the command that needs it, so that `vlmlab --help` is quick.
"""

import os
import sys
from typing import Annotated, Any

import typer

from vlmlab import __version__
from vlmlab.commands import (
    assign,
    book,
    clips,
    evaluate,
    experiment,
    explain,
    gpu,
    instruct,
    model,
    new,
    project,
    replay,
    score,
    shortcomings,
    training,
    world,
)
from vlmlab.errors import VlmlabError

app = typer.Typer(
    name="vlmlab",
    help="Build and question small vision-language models on a laptop: LLaVA, Cobra, and Cobra with MambaVision.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"vlmlab {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()


for command in (
    project.doctor,
    project.run,
    model.ask,
    world.render,
    training.train,
    evaluate.evaluate,
    score.score,
    shortcomings.shortcomings,
    explain.explain,
    explain.faithfulness,
    replay.replay,
    clips.clips,
    instruct.instruct,
    model.account,
    training.bench,
    gpu.gpu,
    experiment.experiment,
    new.new,
    assign.assign,
    project.lab,
    book.book,
):
    app.command()(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="vlmlab", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return 130
    except typer.Abort:
        return 130
    except BrokenPipeError:  # the reader went away, as in `vlmlab ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except VlmlabError as error:
        return _refuse(str(error))
    except ImportError as error:
        return _refuse(_missing(error))
    except OSError as error:
        return _refuse(_system(error))
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
            return _refuse(_usage(error))
        if type(error).__name__ == "OutOfMemoryError":
            return _refuse("the GPU is out of memory; use --device cpu or a smaller model")
        raise  # a fault of ours: the traceback is what a bug report needs


def _refuse(message: str) -> int:
    sys.stdout.flush()
    print("vlmlab: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    message = message[:1].lower() + message[1:].rstrip(".")
    return f"{message}; see {context.command_path if context else 'vlmlab'} --help"


def _missing(error: ImportError) -> str:
    name = error.name or str(error)
    if not isinstance(error, ModuleNotFoundError):
        return f"{error}; run `make setup` to bring the installation up to date"
    if name.split(".")[0] == "vlmlab":
        return f"{name} is not part of this version of vlmlab ({__version__})"
    return f"the package {name!r} is not installed; run `make setup`, or `pip install {name.split('.')[0]}`"


def _system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
