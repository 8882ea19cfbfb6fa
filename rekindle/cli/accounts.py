"""Accounts (tenants) and the access keys that speak for them."""

from __future__ import annotations

from typing import Annotated

import typer

from rekindle.cli import output, session
from rekindle.cli.machines import Json

accounts = typer.Typer(help="Accounts: tenants that see nothing of each other.", no_args_is_help=True)
keys = typer.Typer(help="Access keys, each of one account, with or without a policy.", no_args_is_help=True)


@accounts.command("create")
def create_account(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What people call it.")],
    account: Annotated[str | None, typer.Option("--id", help="Twelve digits [default: random].")] = None,
    as_json: Json = False,  # noqa: FBT002  # a flag of the command line
) -> None:
    """Make an account. It has no key yet: rekindle key create --account ID."""
    made = session.of(context).send("/v1/accounts", {"name": name, "id": account})
    if as_json:
        output.document(made)
    else:
        output.line(f"Account {made['id']} ({made['name']})")


@accounts.command("ls")
def list_accounts(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002
    """List the accounts."""
    items = session.of(context).get("/v1/accounts")["items"]
    if as_json:
        output.document(items)
        return
    rows = ((one["id"], one["name"], one["keys"], output.instant(one["created_at_ms"])) for one in items)
    output.table(("ACCOUNT", "NAME", "KEYS", "CREATED (UTC)"), rows)


@keys.command("create")
def create_key(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Account of the key [default: the service's own].")] = None,
    name: Annotated[str, typer.Option(help="User name in messages and policies.")] = "default",
    policy: Annotated[
        typer.FileText | None, typer.Option(help="IAM policy document, - for stdin [default: everything].")
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Make an access key. The secret is shown now and never again."""
    document = None if policy is None else policy.read()
    made = session.of(context).send("/v1/keys", {"account": account, "name": name, "policy": document})
    if as_json:
        output.document(made)
        return
    output.line(f"export AWS_ACCESS_KEY_ID={made['key_id']}")
    output.line(f"export AWS_SECRET_ACCESS_KEY={made['secret']}")


@keys.command("ls")
def list_keys(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002
    """List the access keys, without their secrets."""
    items = session.of(context).get("/v1/keys")["items"]
    if as_json:
        output.document(items)
        return
    rows = (
        (
            one["key_id"],
            one["account"],
            one["name"],
            "everything" if one["policy"] is None else "policy",
            output.instant(one["created_at_ms"]),
        )
        for one in items
    )
    output.table(("KEY", "ACCOUNT", "NAME", "MAY DO", "CREATED (UTC)"), rows)


@keys.command("rm")
def remove_key(context: typer.Context, key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id.")]) -> None:
    """Remove an access key. Nobody is let in by it from the next request on."""
    session.of(context).delete(f"/v1/keys/{key_id}")
    output.line(f"{key_id} removed")
