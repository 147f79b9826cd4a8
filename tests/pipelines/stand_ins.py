"""Stand-ins for what a test machine has not: a cluster, an image store, GitHub. They write down each call.

What is here is used: bash, git, copier, kustomize, sed, tar. `real` leaves programs out, where a test has more of them.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Collection
from pathlib import Path

DIGEST = "sha256:" + "0123456789abcdef" * 4

HEAD = """#!/bin/bash
printf '%s %s\\n' "${0##*/}" "$*" >>"@state/calls"
answer() { cat "@state/$1" 2>/dev/null || true; }
"""

PROGRAMS = {
    # `fail` holds words of calls that shall fail, one a line; `deployed` the revision that ran before.
    "kubectl": """case "$1 $2" in
kustomize*) exec kustomize build "$2" ;;
"get deployment") answer deployed ;;
"get job") answer migration ;;
"apply --filename") cat "$3" >>"@state/applied"; echo "# end of one call" >>"@state/applied" ;;
esac
! grep --quiet --fixed-strings --file "@state/fail" <<<"kubectl $*"
""",
    "docker": """case "$1" in
login) cat >/dev/null ;;
inspect) echo "${@: -1}@@digest" | sed 's/:[0-9.]*@/@/' ;;
esac
""",
    "uv": """case "$*" in
"version --short") sed --quiet 's/^version = "\\(.*\\)"/\\1/p' pyproject.toml | head -n 1 ;;
*" check manifests"*) cat >/dev/null ;;
*" probe "*)
  if [ -e "@state/server-command" ]; then
    for word in "${@:4}"; do [ "$word" != 120 ] || word=$(answer patience); words+=("$word"); done
    "$(answer server-command)" "${words[@]}"
    exit
  fi
  count=$(($(answer probes) + 1))
  echo "$count" >"@state/probes"
  [ "$count" -gt "$(answer passes-after | grep . || echo 0)" ] || {
    answer probe-says
    exit "$(answer probe-code | grep . || echo 1)"
  }
  ;;
esac
! grep --quiet --fixed-strings --file "@state/fail" <<<"uv $*"
""",
    "uvx": """shift
exec copier "$@"
""",
    "gh": """case "$1 $2" in
"issue list") answer issue ;;
"issue create") echo 12 >"@state/issue" ;;
"issue close") rm "@state/issue" ;;
"pr list") answer pull-request ;;
"pr edit") [ "$3" = "$(answer pull-request)" ] ;;
"pr create") echo 8 >"@state/pull-request" ;;
esac
for word in "$@"; do [ "${last:-}" != --body-file ] || cp "$word" "@state/body"; last=$word; done
""",
    "curl": """for word in "$@"; do
  [ "${last:-}" != --output ] || output=$word
  case "$word" in
  */linux/*/kubectl) echo >"$output" ;;
  *.tar.gz) output=${output:-${word##*/}}; cp "@state/archive.tar.gz" "$output" ;;
  esac
  last=$word
done
case "$*" in *labels=production-probe*state=opened*) answer issues ;; esac
""",
    "sha256sum": "grep --quiet .\n",
    "sleep": "",
    "apk": "",
    "apt-get": "",
    "pip": "",
}
SHIPPED = ("gitleaks", "grype", "mcp-publisher")
"""What the archives hold."""

SHIPPED_BODY = """! grep --quiet --fixed-strings --file "@state/fail" <<<"${0##*/} $*"
"""


class StandIns:
    """A folder of programs to put first on PATH.

    Args:
        folder: Where they are written, with their state beside them.
        real: Names of programs to leave out, so that those of the machine are called.
    """

    def __init__(self, folder: Path, real: Collection[str] = ()) -> None:
        self.programs, self.state = folder / "bin", folder / "state"
        self.programs.mkdir(parents=True)
        self.state.mkdir()
        head = HEAD.replace("@state", str(self.state))
        for name, text in PROGRAMS.items():
            if name not in real:
                self._write(
                    self.programs / name, head + text.replace("@state", str(self.state)).replace("@digest", DIGEST)
                )
        with tarfile.open(self.state / "archive.tar.gz", "w:gz") as archive:
            for name in SHIPPED:
                content = (head + SHIPPED_BODY.replace("@state", str(self.state))).encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
        self.fail()
        self.say("migration", "SuccessCriteriaMet Complete")

    def fail(self, *words: str) -> None:
        """Make every call that holds one of these words fail."""
        self.say("fail", "\n".join(words or ["no call holds this text"]))

    def break_probe(self, text: str, times: int = 99) -> None:
        """Make the next probes fail with this text."""
        self.say("probe-says", text)
        self.say("passes-after", str(times))

    def say(self, name: str, text: str) -> None:
        """Set what a stand-in knows, such as `deployed`, `probe-says` or `server-command`."""
        (self.state / name).write_text(f"{text}\n", encoding="utf-8")

    def calls(self, *programs: str) -> list[str]:
        """Return the calls so far, of some programs or of all."""
        path = self.state / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if not programs or line.split(" ", 1)[0] in programs]

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
