"""Known vulnerabilities of the pinned versions, by pip-audit: exit 1 where there is one that is not accepted.

    python .ci/audit.py

Where the data base does not answer, one line says so and nothing fails: that tells nothing about the pins.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements-linux-cpu.lock"
ACCEPTED: dict[str, str] = {}
"""Id of a finding → why it concerns nothing here."""


def verdict(found: dict | None, said: str) -> tuple[str, int]:
    """What to print, and the exit code: of pip-audit's JSON, `None` where it wrote none, and its messages."""
    if found is None:
        last = (said.strip() or "it says nothing").splitlines()[-1].strip()[:200]
        if re.search(r"requests\.exceptions|ConnectionError|Timeout", said):
            return f"pip-audit: nothing is known, its data base does not answer ({last})", 0
        return f"pip-audit: failed ({last})", 1
    packages = found["dependencies"]
    flaws = [
        f"{package['name']} {package['version']}: {flaw['id']}, "
        f"mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in packages
        for flaw in package.get("vulns", ())
        if not {flaw["id"], *flaw.get("aliases", ())} & ACCEPTED.keys()
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return "pip-audit: nothing is known, its data base has none of the packages", 0
    passed_over = f"; not in its data base: {', '.join(unknown)}" if unknown else ""
    summary = f"pip-audit: {len(flaws)} findings in {len(packages) - len(unknown)} packages{passed_over}"
    return "\n".join([*flaws, summary]), 1 if flaws else 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder, "pins.txt"), Path(folder, "audit.json")
        # The data base knows no local versions, such as torch's for the CPU.
        text = re.sub(r"(?m)^([\w.-]+==[^\s+]+)\+\w+", r"\1", LOCK.read_text(encoding="utf-8"))
        pins.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--timeout", "20"]
        command += ["--disable-pip", "--no-deps", "-r", str(pins), "--format", "json", "-o", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # It is written where all packages were asked for, whatever was found.
        found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None
    text, code = verdict(found, done.stderr)
    print(text)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
