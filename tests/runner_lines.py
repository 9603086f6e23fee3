"""A stand-in for the part of a runner that reads a step's output and files: the commands it executes and the values it sets.

It stands in for actions/runner 2.336 (ActionCommand.cs, ActionCommandManager.cs, FileCommandManager.cs) and, with `act=True`, for
the stricter reading of act 0.2.87 (command.go). The real act reads the same lines in tests/workflow.
"""

import re
from dataclasses import dataclass, field

NAMES = {
    *("add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice", "remove-matcher"),
    *("save-state", "set-env", "set-output", "stop-commands", "warning"),
}


@dataclass(frozen=True)
class Taken:
    """A command that the runner executed."""

    name: str
    properties: dict[str, str]
    data: str


def _unescaped(text: str, *, inner: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), *((f"%{ord(char):02X}", char) for char in inner), ("%25", "%")):
        text = text.replace(code, char)
    return text


def _properties(text: str, separator: str) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in text.strip().split(separator) if part]
    return {pair[0]: _unescaped(pair[1], inner=":,") for pair in pairs if len(pair) == 2}


@dataclass
class Runner:
    """Reads lines; `taken` holds the commands it executed."""

    act: bool = False
    taken: list[Taken] = field(default_factory=list)
    stopped: str = ""

    def _parse(self, line: str) -> Taken | None:
        names = NAMES | ({self.stopped} if self.stopped else set())
        if self.act:
            match = re.match(r"^::([^ ]+)( (.+))?::(.*)$", line) or re.match(r"^##\[([^ ]+)( (.+))?\](.*)$", line)
            if match is None or match[1] not in names:
                return None
            return Taken(match[1], _properties(match[3] or "", ","), _unescaped(match[4], inner=""))
        text = line.lstrip()
        end = text.find("::", 2)
        if text.startswith("::") and end >= 0:
            name, _, properties = text[2:end].partition(" ")
            if name.lower() in names:
                return Taken(name.lower(), _properties(properties, ","), _unescaped(text[end + 2 :], inner=""))
        start = line.find("##[")
        end = line.find("]", start)
        if start >= 0 and end >= 0:
            name, _, properties = line[start + 3 : end].partition(" ")
            if name.lower() in names:
                return Taken(name.lower(), _properties(properties, ";"), _unescaped(line[end + 1 :], inner=";]"))
        return None

    def read(self, text: str) -> "Runner":
        for line in re.split(r"\r\n|\r|\n", text):
            command = self._parse(line)
            if command is None:
                continue
            if self.stopped:
                if command.name == self.stopped:
                    self.stopped = ""
            elif command.name == "stop-commands":
                assert command.data, "the runner refuses an empty word"
                assert command.data not in NAMES, "the runner refuses the name of a command"
                self.stopped = command.data
            else:
                self.taken.append(command)
        return self


def values(text: str) -> dict[str, str]:
    """Parse a file of `name=value` and `name<<word` entries; a value may contain any line except the word."""
    entries: dict[str, str] = {}
    lines = iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        name, sign, rest = min((line.partition(sign) for sign in ("=", "<<") if sign in line), key=lambda cut: len(cut[0]))
        if sign == "=":
            entries[name] = rest
            continue
        held: list[str] = []
        while (one := next(lines)) != rest:
            held.append(one)
        entries[name] = "\n".join(held)
    return entries


HOSTILE = {
    "command": "::error::pwned",
    "command after blanks": " \t\u00a0::error file=x,line=1::pwned",
    "command on a separate line": "fine\n::set-output name=a::b",
    "command after a carriage return": "fine\r::add-mask::e",
    "older command": "##[error]pwned",
    "older command within a line": "digits ##[add-mask]e and more",
    "older command after another sharp": "###[group]x",
    "escaped line end": "%0A::error::pwned%0D%0A##[error]x",
    "stops commands itself": "::stop-commands::mine",
    "resumes": "::mine::",
    "ends the summary's fence": "```\n::error::x\n````",
    "backticks": "a`b``c```d`",
    "only backticks": "```",
    "pipes": "a|b||c\\|d\\\\|e",
    "html": "<img src=x onerror=alert(1)><!-- torchrelay --></details></table><script>1</script>",
    "link": "[x](javascript:1) ![x](http://e.example/x.png) http://e.example <http://e.example> www.e.example a@e.example",
    "mention and reference": "@everyone #1 GH-1 org/repo#1 52b4657",
    "emphasis": "*a* _b_ **c** ~~d~~ # e\n# f\n- g\n> h",
    "mermaid": 'a"] --> b["c"]:::x\n%%{init: {"theme":"x"}}%%\nclick a href "javascript:1"; end #35;',
    "expression": "${{ secrets.TOKEN }} $(id) `id` ; rm -rf / && exit",
    "ansi": "\x1b[31mred\x1b[0m\x1b]8;;http://e.example\x07x\x1b]8;;\x07\x9b1m",
    "bidi": "\u202egnp.exe\u2066\u2069\u200f\u200b\ufeff",
    "other line ends": "a\x0b::error::x\x0c::error::y\x85::error::z\u2028::error::u\u2029::error::v",
    "nul and surrogate": "a\x00b\ud800c",
    "heredoc": "x<<EOF\n1\nEOF\nNODE_OPTIONS=--require=/tmp/x",
    "assignment": "a=b\nc=d",
    "empty": "",
    "blank": " \n ",
    "backslash at the end": "a\\",
    "long": "x" * 100_000 + "|`" * 1000,
}
