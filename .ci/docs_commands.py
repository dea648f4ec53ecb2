"""The page of every command and option, made from `hierseg.cli.build_parser()`.

An example stands in command_examples.json with what it printed. They are run in their order, in one empty folder:

    python .ci/docs_commands.py         # run the examples again and keep what they print
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / ".ci/command_examples.json"
CODE = re.compile(r"(`[^`]+`|(?<!\w)'[^']+'(?!\w)|(?<![\w-])--[a-z][\w-]*)")  # in a help text


def subparsers(parser):
    "Name to parser of each command."
    return {name: sub for a in parser._actions if isinstance(a, argparse._SubParsersAction)
            for name, sub in a.choices.items()}


def summaries(parser):
    "Name to the line that `--help` shows for each command."
    return {c.dest: c.help for a in parser._actions if isinstance(a, argparse._SubParsersAction)
            for c in a._choices_actions}


def option_name(parser, action):
    "`--size SIZE`, or what stands for a positional argument."
    formatter = parser._get_formatter()
    if not action.option_strings:
        return formatter._format_args(action, action.metavar or action.dest)
    value = "" if action.nargs == 0 else " " + formatter._format_args(action, action.metavar or action.dest.upper())
    return ", ".join(action.option_strings) + value


def option_help(parser, action):
    "What an option does, its default filled in, safe in a table's cell."
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    parts = CODE.split(" ".join(text.split()))
    parts[::2] = [re.sub(r"([|*_<>$\[\]])", r"\\\1", p) for p in parts[::2]]
    parts[1::2] = ["`" + p.strip("`").replace("|", "\\|") + "`" for p in parts[1::2]]
    return "".join(parts)


def option_table(parser, actions):
    "A table of options; empty where there are none to show."
    shown = [a for a in actions if a.help != argparse.SUPPRESS and not isinstance(a, argparse._SubParsersAction)]
    if not shown:
        return ""
    rows = [f"| `{option_name(parser, a).replace('|', chr(92) + '|')}` | {option_help(parser, a)} |" for a in shown]
    return "\n".join(["::: {.option-table}", "| option | what it does |", "|:---|:---|", *rows, ":::", ""])


def usage_line(parser):
    "The command with its positional arguments."
    names = [option_name(parser, a) for a in parser._actions if not a.option_strings]
    required = [option_name(parser, a) for a in parser._actions if a.option_strings and a.required]
    return " ".join([parser.prog, *names, *required, "[options]"])


def code(text, language):
    "A block of code."
    return f"```{{.{language}}}\n{text.rstrip()}\n```\n"


def command_section(name, parser, summary, examples):
    "One command: what it is for, its options by group, an example and what that printed."
    parts = [f"## {name}\n", f"{(parser.description or summary or '').strip()}\n", code(usage_line(parser), "bash")]
    for group in parser._action_groups:
        if table := option_table(parser, group._group_actions):
            title = "Arguments" if group.title.startswith("positional") else group.title.capitalize()
            parts += [f"### {title} {{#{name}-{re.sub(r'[^a-z]+', '-', group.title.lower())}}}\n", table]
    own = [e for e in examples if example_command(e) == name]
    if own:
        parts.append(f"### {'Example' if len(own) == 1 else 'Examples'} {{#{name}-example}}\n")
        for e in own:
            parts += [code(e["command"], "bash"), code(e["output"], "text") if e["output"].strip() else ""]
    elif parser.epilog:
        parts += [f"### Example {{#{name}-example}}\n", code("\n".join(parser.epilog.strip().splitlines()[1:]), "bash")]
    return "\n".join(p for p in parts if p)


def example_command(example):
    "The command that an example is of."
    return shlex.split(example["command"])[1]


def recorded_examples():
    "The examples with what they printed."
    return json.loads(EXAMPLES.read_text(encoding="utf-8"))


def commands_page():
    "The page as Quarto markdown."
    from hierseg.cli import build_parser

    os.environ["COLUMNS"] = "100"
    parser, examples = build_parser(), recorded_examples()
    short = summaries(parser)
    head = ["---", "title: Every command and option",
            "description: What each command of hierseg takes, with an example and what it prints", "---", "",
            "This page is made from the program's own help. How the commands fit together stands on the page "
            "[Command line](cli.ipynb).", "",
            "| command | what it does |", "|:---|:---|",
            *(f"| [`hierseg {n}`](#{n}) | {short.get(n) or ''} |" for n in subparsers(parser)), "",
            "The examples were run one after the other in one folder, on a small set of pictures that the demo draws; "
            "numbers from so few pictures and so short a training mean nothing.", ""]
    sections = [command_section(n, p, short.get(n), examples) for n, p in subparsers(parser).items()]
    return "\n".join(head) + "\n" + "\n".join(sections)


def clean(text, folder):
    "What a terminal would show at the end: no overwritten progress lines, no path of this machine."
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).replace(str(folder), ".").strip("\n")


def run_examples():
    "Run the examples in their order and keep what each prints."
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_ALBUMENTATIONS_UPDATE": "1",
           "MPLBACKEND": "agg"}
    examples = recorded_examples()
    with tempfile.TemporaryDirectory() as folder:
        main = "import sys; from hierseg.cli import main; sys.exit(main())"
        hierseg = shlex.join([sys.executable, "-W", "ignore", "-c", main])
        for e in examples:
            line = e["command"].replace("hierseg", hierseg, 1)
            done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True)
            if done.returncode or not done.stdout.strip():
                sys.exit(f"{e['command']}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            e["output"] = clean(done.stdout, folder)
            print(f"$ {e['command']}\n{e['output']}\n")
    EXAMPLES.write_text(json.dumps(examples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_examples()
