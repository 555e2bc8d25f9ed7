"""The `headrace` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import options as opt
from cli.recover import recover
from cli.up import default_engine, default_models, up
from cli.verify import verify
from shared.errors import HeadraceError, SetupError
from shared.lifecycle import SETUP_EXIT_CODE

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def headrace() -> None:
    """A self-hosted OpenAI Batch API on Kafka and vLLM."""


@app.command("up")
def up_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API on 127.0.0.1.")] = 8000,
    data: Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder for everything that is kept.")] = Path(
        ".headrace"
    ),
    kafka: Annotated[str, typer.Option(help="auto, jvm, memory or HOST:PORT.")] = "auto",
    store: Annotated[str, typer.Option(help="file:///DIR or s3://BUCKET; a folder under --data by default.")] = "",
    engine: Annotated[str, typer.Option(help="vllm, echo or openai:URL; vllm where it is installed.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Hub name, folder, or NAME=FOLDER; repeatable.")] = None,
    workers: Annotated[
        int, typer.Option(help="Workers in all, shared out over the models; one per model by default.")
    ] = 0,
    collectors: Annotated[int, typer.Option(help="Collector processes.")] = 1,
    otlp: Annotated[str, typer.Option(help="OTLP/HTTP endpoint for traces, http://HOST:4318.")] = "",
    vllm_arg: Annotated[
        list[str] | None, typer.Option(help="A flag of vLLM's server, as --vllm-arg=--dtype=float32.")
    ] = None,
) -> None:
    """Run the whole stack on this machine until Ctrl-C; a second Ctrl-C forces."""
    chosen = opt.parse_engine(engine) if engine else default_engine()
    models = tuple(map(opt.parse_model, model or ())) or default_models(chosen)
    if len({m.name for m in models}) != len(models):
        raise SetupError("--model: two models have the same name; tell them apart with NAME=FOLDER")
    options = opt.UpOptions(
        port=port,
        data=data,
        kafka=opt.parse_kafka(kafka),
        store=opt.parse_store(store, data),
        engine=chosen,
        models=models,
        num_workers=opt.check_counts(workers, collectors, len(models)),
        num_collectors=collectors,
        otlp=otlp,
        vllm_args=tuple(vllm_arg or ()),
    )
    raise typer.Exit(up(options))


Data = Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder for everything that is kept.")]
Store = Annotated[str, typer.Option(help="file:///DIR or s3://BUCKET; a folder under --data by default.")]


@app.command("recover")
def recover_command(
    data: Data = Path(".headrace"),
    kafka: Annotated[str, typer.Option(help="auto, jvm or HOST:PORT.")] = "auto",
    store: Store = "",
) -> None:
    """Fill a log that lost its data from the object store; run it while no service runs."""
    raise typer.Exit(recover(data=data, kafka=opt.parse_kafka(kafka), store=opt.parse_store(store, data)))


@app.command("verify")
def verify_command(
    batch_ids: Annotated[list[str], typer.Argument(metavar="BATCH_ID...")],
    data: Data = Path(".headrace"),
    store: Store = "",
) -> None:
    """Check segments, files and records of batches against each other, from the object store alone."""
    raise typer.Exit(verify(batch_ids, opt.parse_store(store, data)))


def main() -> None:
    """Console entry: a wrong set-up is one sentence and exit code 2."""
    try:
        app()
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(SETUP_EXIT_CODE if isinstance(error, SetupError) else 1)


if __name__ == "__main__":
    main()
