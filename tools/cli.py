"""The command line."""

from __future__ import annotations

import argparse
import sys

from .book import ROOT, NotebookError
from .bundling import colab
from .exporting import export
from .fingerprints import due
from .linting import lint
from .running import run
from .stamping import stamp
from .starting import new
from .stripping import strip
from .web import web


def main(arguments=None, root=ROOT):
    """Returns the exit status: 0, or 1 with the findings printed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that cannot show every character
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None and not options.check:
        parser.error("nothing to do: name a command, or --check")
    try:
        findings = _dispatch(options, root)
    except NotebookError as problem:
        findings = [str(problem)]
    print("\n".join(findings) if findings else "ok")
    return 1 if findings else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tools")
    parser.add_argument("--check", action="store_true", help="export, strip and lint, changing nothing")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, what in (
        ("export", "write the cells tagged `export` to aigc_helpers/models/"),
        ("strip", "remove what must not be committed"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--check", action="store_true", help="report, changing nothing", dest="only_check")
    linter = commands.add_parser("lint", help="the rules of the house")
    linter.add_argument(
        "--shrink", action="store_true", help="take needless exceptions off tools/exceptions.json"
    )
    stamper = commands.add_parser("stamp", help="write the published address into badges and install cells")
    stamper.add_argument("target", metavar="OWNER/REPO[@REF]")
    runner = commands.add_parser("run", help="execute in place, then strip; AIGC_BUDGET scales the training")
    runner.add_argument("names", nargs="*", metavar="NAME", help="a number or a name's beginning; all if none")
    runner.add_argument("--slowest", type=int, default=0, metavar="N", help="also print the N slowest cells")
    commands.add_parser("due", help="list the pages whose stored outputs no longer rest on a full run")
    keeper = commands.add_parser("assets", help="train the small models of aigc_helpers/assets/")
    keeper.add_argument("names", nargs="*", metavar="NAME", help="gan, vae, ...; all if none")
    commands.add_parser("picture", help="draw the README's picture with them")
    tester = commands.add_parser("experiment", help="run an experiment in full, and store its table")
    tester.add_argument("name", nargs="?", metavar="NAME", help="one of tools/experiments/; lists them if none")
    starter = commands.add_parser("new", help="start a chapter: notebook, panels, tests, a row in the README")
    starter.add_argument("stem", metavar="NN_name")
    copier = commands.add_parser("colab", help="write self-contained copies, which need no clone")
    copier.add_argument("names", nargs="*", metavar="NAME", help="a number or a name's beginning; all if none")
    copier.add_argument("--out", metavar="DIR", help="where to (dist/colab)")
    pager = commands.add_parser("web", help="write web pages, with a description of each picture")
    pager.add_argument("names", nargs="*", metavar="NAME", help="a number or a name's beginning; all if none")
    pager.add_argument("--out", metavar="DIR", help="where to (dist/web)")
    return parser


def _dispatch(options, root):
    if options.command == "export":
        return export(root, check=options.check or options.only_check)
    if options.command == "strip":
        return strip(root, check=options.check or options.only_check)
    if options.command == "lint":
        return lint(root, shrink=options.shrink)
    if options.command == "stamp":
        return stamp(options.target, root) or []
    if options.command == "run":
        return run(options.names, root, slowest=options.slowest) or []
    if options.command == "due":
        return due(root)
    if options.command == "colab":
        return colab(options.names, root, options.out) or []
    if options.command == "web":
        return web(options.names, root, options.out) or []
    if options.command == "assets":
        from .assets import assets  # with torch, which the other commands need not wait for

        return assets(options.names, root) or []
    if options.command == "picture":
        from .picture import picture

        return picture() or []
    if options.command == "experiment":
        return _experiment(options.name)
    if options.command == "new":
        return new(options.stem, root) or []
    return export(root, check=True) + strip(root, check=True) + lint(root)


def _experiment(name):
    from .experimenting import experiment, list_experiments

    if name is None:
        for known, what in list_experiments().items():
            print(f"{known}: {what}")
    else:
        print(f"{name}: {experiment(name):,} bytes")
    return []
