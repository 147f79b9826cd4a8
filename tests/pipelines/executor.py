"""Runs the `run:` steps of a rendered workflow in order, with expressions, conditions, outputs and variables.

Steps that use an action count as done: the tree is there already, and so are the programs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TOKEN = re.compile(r"\s*('(?:[^']|'')*'|\|\||&&|==|!=|!|\(|\)|,|[\w.*-]+)")
WORDS = {"||": " or ", "&&": " and ", "!": " not ", "true": "True", "false": "False"}


@dataclass
class Job:
    """What a job did: its result, its outputs, and the outcome of each step."""

    result: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    said: str = ""


def lookup(context: Mapping[str, Any], path: str) -> Any:
    """Return what a dotted path names; what is not there is an empty text, and `*` collects."""
    found: Any = context
    names = path.split(".")
    for index, name in enumerate(names):
        if name == "*":
            return [lookup(one, ".".join(names[index + 1 :])) for one in found.values()]
        found = found.get(name, "") if isinstance(found, Mapping) else ""
    return found


def evaluate(expression: str, context: Mapping[str, Any], status: str) -> Any:
    """Return the value of an expression of GitHub's language, as far as the workflows use it."""
    python = []
    for token in TOKEN.findall(expression):
        if token in WORDS or token.isdecimal():
            python.append(WORDS.get(token, token))
        elif token[0] == "'" or not re.match(r"[\w*]", token) or re.search(rf"\b{token}\(", expression):
            python.append(token)
        else:
            python.append(f"look({token!r})")
    functions = {
        "look": lambda path: lookup(context, path),
        "success": lambda: status == "success",
        "failure": lambda: status == "failure",
        "cancelled": lambda: status == "cancelled",
        "always": lambda: True,
        "join": lambda parts, by: by.join(parts),
    }
    return eval("".join(python), {"__builtins__": {}}, functions)


class Workflow:
    """A workflow of a project, run where the project is.

    Args:
        project: A rendered project; steps change it.
        name: The file below `.github/workflows`.
        variables: The environment of the runner, `PATH` with the stand-ins included.
        overrides: Variables that win over those of the workflow, such as another `PUBLIC_URL`. `CUT_OFF` names the step
            in which the job's time limit ends it.
        contexts: `secrets`, `vars` and more of `github`.
    """

    def __init__(
        self,
        project: Path,
        name: str,
        variables: Mapping[str, str],
        overrides: Mapping[str, str],
        **contexts: Mapping[str, str],
    ) -> None:
        text = (project / ".github/workflows" / f"{name}.yaml").read_text(encoding="utf-8")
        self.document: dict[str, Any] = yaml.safe_load(text)
        self._project, self._overrides = project, overrides
        self._temporary = project.parent / f"{project.name}-runner"
        self._temporary.mkdir(exist_ok=True)
        github = {"actor": "someone", "token": "the-workflows-own", **contexts.pop("github", {})}
        self._contexts: dict[str, Any] = {"github": github, "runner": {"temp": str(self._temporary)}, **contexts}
        self._variables = {
            **variables,
            "GITHUB_WORKSPACE": str(project),
            "GITHUB_SERVER_URL": "https://git.example.com",
            "GITHUB_REPOSITORY": "acme/notes",
            "GITHUB_RUN_ID": "7",
            "RUNNER_TEMP": str(self._temporary),
        }

    def run(self) -> dict[str, Job]:
        """Run every job whose needs succeeded, in the order of the file, and return what each did."""
        done: dict[str, Job] = {}
        for name, job in self.document["jobs"].items():
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            status = "failure" if any(done[one].result != "success" for one in needs) else "success"
            contexts = self._contexts | {"needs": {one: vars(done[one]) for one in needs}}
            wanted = self._holds(job.get("if", "success()"), contexts, status)
            done[name] = self._run_job(job, contexts) if wanted else Job(result="skipped")
        return done

    def _run_job(self, job: Mapping[str, Any], contexts: Mapping[str, Any]) -> Job:
        done = Job()
        variables = {**self._variables, **self.document.get("env", {}), **job.get("env", {}), **self._overrides}
        steps: dict[str, dict[str, Any]] = {}
        context = {**contexts, "steps": steps, "env": variables}
        for number, step in enumerate(job["steps"]):
            name = step.get("name", step.get("uses", f"step {number}"))
            outputs: dict[str, str] = {}
            outcome = "skipped"
            if name == self._overrides.get("CUT_OFF"):
                outcome = "cancelled"
            elif self._holds(step.get("if", "success()"), context, done.result):
                outcome = "success" if "uses" in step else self._run_step(step, context, variables, outputs, done)
            if outcome in {"failure", "cancelled"}:
                done.result = outcome
            done.outcomes[name] = outcome
            steps[step.get("id", str(number))] = {"outputs": outputs, "outcome": outcome}
        done.outputs = {name: self._filled(value, context) for name, value in job.get("outputs", {}).items()}
        return done

    def _run_step(
        self,
        step: Mapping[str, Any],
        context: Mapping[str, Any],
        variables: dict[str, str],
        outputs: dict[str, str],
        done: Job,
    ) -> str:
        own = {name: self._filled(str(value), context) for name, value in step.get("env", {}).items()}
        files = {name: self._temporary / name for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
        for path in files.values():
            path.write_text("", encoding="utf-8")
        script = self._temporary / "step.sh"
        script.write_text(self._filled(step["run"], context), encoding="utf-8")
        ended = subprocess.run(
            ["bash", "-e", str(script)],
            cwd=self._project,
            env={**variables, **own, **{name: str(path) for name, path in files.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        done.said += ended.stdout
        for target, path in ((variables, files["GITHUB_ENV"]), (outputs, files["GITHUB_OUTPUT"])):
            lines = path.read_text(encoding="utf-8").splitlines()
            target.update({name: value for name, _, value in (line.partition("=") for line in lines)})
        return "failure" if ended.returncode else "success"

    def _holds(self, condition: str, context: Mapping[str, Any], status: str) -> bool:
        text = str(condition).removeprefix("${{").removesuffix("}}")
        # A condition without a status function means: and nothing failed.
        if not re.search(r"\b(success|failure|always|cancelled)\(\)", text) and status != "success":
            return False
        return bool(evaluate(text, context, status))

    def _filled(self, text: str, context: Mapping[str, Any]) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match.group(1), context, "success")), str(text))


def gitlab_job(project: Path, name: str, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a job's `before_script` and `script` in one shell and its `after_script` in another, as GitLab's runner does.

    Returns:
        The exit code of the script, and everything that was said.
    """
    document: dict[str, Any] = yaml.safe_load((project / ".gitlab/chassis.yml").read_text(encoding="utf-8"))
    job = gitlab_resolved(document, name)
    environment = {
        **variables,
        **document["variables"],
        **job.get("variables", {}),
        "UV_PYTHON": os.environ.get("UV_PYTHON", ""),
    }
    code, said = 0, ""
    temporary = project.parent / "tmp"  # a job has a machine of its own, tests share one
    temporary.mkdir(exist_ok=True)
    for part in ("script", "after_script"):
        lines = [*(job.get("before_script", []) if part == "script" else []), *job.get(part, [])]
        status = {"CI_JOB_STATUS": "failed" if code else "success"}
        ended = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(lines).replace("/tmp/", f"{temporary}/")],
            cwd=project,
            env={**environment, **status},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        code, said = code or (ended.returncode if part == "script" else 0), said + ended.stdout
    return code, said


def gitlab_resolved(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a job with everything that it extends; a later parent wins over an earlier one."""
    job = document[name]
    parents = [job["extends"]] if isinstance(job.get("extends"), str) else job.get("extends", [])
    resolved: dict[str, Any] = {}
    for parent in parents:
        resolved |= gitlab_resolved(document, parent)
    return resolved | {key: value for key, value in job.items() if key != "extends"}
