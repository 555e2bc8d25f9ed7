"""The `headrace` command."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cli import batches, dead_letters, files, keys
from cli import options as opt
from cli.api_client import CallFailed
from cli.doctor import doctor_command
from cli.fleet import topics_command, workers_command
from cli.recover import recover
from cli.up import default_engine, default_models, up
from cli.verify import verify
from shared.api_keys import SCOPES
from shared.errors import HeadraceError, SetupError
from shared.lifecycle import SETUP_EXIT_CODE
from shared.messages import ApiKey

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


app.add_typer(batches.app, name="batches")
app.add_typer(files.app, name="files")
app.command("workers")(workers_command)
app.command("topics")(topics_command)
app.command("doctor")(doctor_command)

keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may call, as which tenant.")
app.add_typer(keys_app, name="keys")
KafkaAddress = Annotated[str, typer.Option(help="HOST:PORT; the log of the stack that runs in --data by default.")]
Output = Annotated[str, typer.Option("--output", "-o", help="text or json.")]


@keys_app.command("create")
def keys_create_command(
    tenant: Annotated[str, typer.Option(help="Whose files and batches the key opens.")] = "default",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SCOPES)}; all by default; repeatable.")] = None,
    expires: Annotated[str, typer.Option(help="Such as 90d or 12h; never by default.")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Limit of this key.")] = None,
    data: Data = Path(".headrace"),
    kafka: KafkaAddress = "",
    store: Store = "",
    output: Output = "text",
) -> None:
    """Make a key and print its secret, this one time."""
    request = keys.KeyRequest(tenant, name, tuple(scope or ()), keys.parse_duration(expires), requests_per_minute)
    where = keys.installation(data, kafka, opt.parse_store(store, data))
    _show_secret(*keys.create(where, keys.check_request(request)), output)


@keys_app.command("list")
def keys_list_command(data: Data = Path(".headrace"), store: Store = "", output: Output = "text") -> None:
    """All keys, without their secrets."""
    found = keys.list_keys(keys.Installation("", opt.parse_store(store, data)))
    shown = [keys.describe(key, time.time()) for key in found]
    if output == "json":
        print(json.dumps(shown, indent=2))
        return
    for key in shown:
        print(f"{key['id']}  {key['tenant']}  {key['key']}  {key['state']}  {key['name']}")


@keys_app.command("rotate")
def keys_rotate_command(
    key_id: str,
    grace: Annotated[str, typer.Option(help="How long the old secret still opens.")] = "24h",
    data: Data = Path(".headrace"),
    kafka: KafkaAddress = "",
    store: Store = "",
    output: Output = "text",
) -> None:
    """Make a key like this one; this one ends after the grace."""
    where = keys.installation(data, kafka, opt.parse_store(store, data))
    _show_secret(*keys.rotate(where, key_id, keys.parse_duration(grace) or 0), output)


@keys_app.command("revoke")
def keys_revoke_command(
    key_id: str, data: Data = Path(".headrace"), kafka: KafkaAddress = "", store: Store = ""
) -> None:
    """End a key now."""
    keys.revoke(keys.installation(data, kafka, opt.parse_store(store, data)), key_id)
    print(f"{key_id} is revoked")


dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: records that could not be worked on, and why.")
app.add_typer(dlq_app, name="dlq")


@dlq_app.command("list")
def dlq_list_command(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    error: Annotated[str, typer.Option(help="Only this class: unreadable, unknown_schema, too_large, ….")] = "",
    topic: Annotated[str, typer.Option(help="Only what was parked on this topic.")] = "",
    data: Data = Path(".headrace"),
    kafka: KafkaAddress = "",
    output: Output = "text",
) -> None:
    """Dead letters, oldest first, one in a line."""
    found = dead_letters.list_letters(_kafka(data, kafka), limit=limit, error=error, topic=topic)
    shown = [letter.summary() for letter in found]
    if output == "json":
        print(json.dumps(shown, indent=2))
        return
    for line in shown:
        print(
            f"{line['number']}  {line['topic']}/{line['partition']}@{line['offset']}  {line['error']}: {line['reason']}"
        )


@dlq_app.command("show")
def dlq_show_command(number: int, data: Data = Path(".headrace"), kafka: KafkaAddress = "") -> None:
    """One dead letter with its value and headers, as JSON."""
    print(json.dumps(dead_letters.show(_kafka(data, kafka), number).details(), indent=2, ensure_ascii=False))


@dlq_app.command("redrive")
def dlq_redrive_command(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...")],
    data: Data = Path(".headrace"),
    kafka: KafkaAddress = "",
) -> None:
    """Send records again, as they were, to where they were parked; do it once the cause is mended."""
    for letter in dead_letters.redrive(_kafka(data, kafka), numbers):
        print(f"{letter.number} sent to {letter.topic}/{letter.partition}")


def _kafka(data: Path, kafka: str) -> str:
    """Where the log is: named, or that of the stack that runs in the folder."""
    return keys.installation(data, kafka, "").kafka


def _show_secret(key: ApiKey, secret: str, output: str) -> None:
    if output == "json":
        print(json.dumps(keys.describe(key, time.time()) | {"secret": secret}, indent=2))
        return
    print(secret)
    print(f"key {key.id} of tenant {key.tenant}; the secret above is shown this one time", file=sys.stderr)


def main() -> None:
    """Console entry: a wrong set-up is one sentence and exit code 2."""
    try:
        app()
    except CallFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(SETUP_EXIT_CODE if isinstance(error, SetupError) else 1)


if __name__ == "__main__":
    main()
