"""`headrace files`: upload, list, download, delete. SHELL."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.api_client import ApiClient, api_client
from cli.show import Output, show_list, show_one, tell

COLUMNS = ("id", "purpose", "filename", "bytes", "created_at", "expires_at")

Url = Annotated[str, typer.Option(help="The API; OPENAI_BASE_URL, or the stack in --data, by default.")]
Data = Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder of a stack that runs here.")]
Shown = Annotated[Output, typer.Option("--output", "-o", help="How the answer is printed.")]

app = typer.Typer(no_args_is_help=True, help="Files: upload, list, content, delete.")


@app.command("upload")
def upload_command(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option(help="What it is for.")] = "batch",
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """Upload a file."""
    with api_client(url, data) as api:
        show_one(upload(api, path, purpose), COLUMNS, output)


@app.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    purpose: Annotated[str, typer.Option(help="Only those for this.")] = "",
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """Files, newest first."""
    with api_client(url, data) as api:
        more = {"purpose": purpose} if purpose else {}
        show_list(api.pages("/files", limit, order="desc", **more), COLUMNS, output)


@app.command("get")
def get(file_id: str, url: Url = "", data: Data = Path(".headrace"), output: Shown = Output.TABLE) -> None:
    """What is known of a file."""
    with api_client(url, data) as api:
        show_one(api.json("GET", f"/files/{file_id}"), COLUMNS, output)


@app.command("content")
def content(file_id: str, url: Url = "", data: Data = Path(".headrace")) -> None:
    """A file's lines on standard output."""
    with api_client(url, data) as api:
        for line in api.lines(f"/files/{file_id}/content"):
            sys.stdout.write(line + "\n")


@app.command("delete")
def delete(
    file_ids: Annotated[list[str], typer.Argument(metavar="FILE_ID...")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    url: Url = "",
    data: Data = Path(".headrace"),
) -> None:
    """Delete files."""
    with api_client(url, data) as api:
        for file_id in file_ids:
            found = api.json("GET", f"/files/{file_id}")
            if not dry_run:
                api.json("DELETE", f"/files/{file_id}")
            tell(f"{'would delete' if dry_run else 'deleted'} {file_id} {found['filename']}")


def upload(api: ApiClient, path: Path, purpose: str) -> dict[str, Any]:
    """Upload a file; raises CallFailed, BadParameter."""
    try:
        with path.open("rb") as source:
            return api.json("POST", "/files", files={"file": (path.name, source)}, data={"purpose": purpose})
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error}") from None
