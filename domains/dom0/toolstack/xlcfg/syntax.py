"""The syntax of xl.cfg(5): text in, a list of settings out; nothing is ever executed.

Owns the grammar of Xen's libxlu_cfg (tools/libs/util/libxlu_cfg_l.l and libxlu_cfg_y.y):

    file       = { [ setting ] ( newline | ";" ) }
    setting    = key ( "=" | "+=" ) value
    value      = string | number | "[" { value "," } [ value ] "]"        newlines are free within a list
    string     = '…' or "…", one line, with C's backslash escapes
    number     = decimal, octal after 0, hexadecimal after 0x

Every error is a ConfigError, whose text is one line `file:line:column: message`; parsing goes on with the next line, or the
next key behind a list. As for libxlutil a carriage return is an error outside of strings and comments, a comment
needs a newline behind it, and the last setting does not. Deliberate differences from Xen: `\\NNN` is octal and `\\xNN` works (in
libxlu_cfg.c neither does), and lists nest at most MAX_DEPTH deep.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

COMMAND_LINE: Final = "command line"
"""The file that overrides stand in, for messages."""

MAX_DEPTH: Final = 16
"""Levels of nested lists."""
MAX_MISTAKES: Final = 50
"""After so many, the rest of a text is not looked at."""
PYTHON: Final = frozenset({"def", "del", "for", "from", "global", "if", "import", "print", "try", "while"})
"""What begins a line of the descriptions of old, which were programs."""


class Position(NamedTuple):
    """Where something stands, for messages; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ConfigError(Exception):
    """A domain description that cannot be used. `str()` says where and why, in one line for each mistake; `position`
    and `message` are those of the first one, `each` has all of them.
    """

    def __init__(self, position: Position, message: str, others: Sequence["ConfigError"] = ()) -> None:
        super().__init__(position, message)
        self.position = position
        self.message = " ".join(message.split())
        self.each: list[ConfigError] = [self, *others]

    def __str__(self) -> str:
        return "\n".join(f"{error.position}: {error.message}" for error in self.each)


def all_of(mistakes: Sequence[ConfigError]) -> ConfigError:
    """One error with these mistakes, of which there is at least one, in the order of their places."""
    first, *others = sorted(mistakes, key=lambda error: (error.position.file, error.position.line))
    return ConfigError(first.position, first.message, others)


class Atom(NamedTuple):
    """A string or a number; Xen keeps both as text, and so does this."""

    text: str
    position: Position
    quoted: bool = True


class ListValue(NamedTuple):
    """A list in brackets."""

    items: tuple["Value", ...]
    position: Position


Value = Atom | ListValue


class Setting(NamedTuple):
    """One `key = value`."""

    key: str
    value: Value
    position: Position
    adds: bool = False
    """Written with `+=`: the value is put after the previous one of the same key."""


class Token(NamedTuple):
    """A word of the text: its kind, the word itself, and where it stands."""

    kind: str
    text: str
    position: Position


TOKENS: Final = re.compile(
    r"""(?P<space>[ \t]+) | (?P<newline>\#[^\n]*\n|\n)
      | (?P<key>[a-z][._0-9a-z]*) | (?P<number>[0-9][0-9a-fx]*)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<sign>\+=|[,\[\]=;])""",
    re.VERBOSE,
)
ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))")
ESCAPED: Final = dict(zip("abfnrtv\"'\\", "\a\b\f\n\r\t\v\"'\\", strict=True))


def parse(text: str, file: str) -> list[Setting]:
    """The settings of a description in order; `file` is its name for messages. Raises ConfigError."""
    settings, mistakes = parse_all(text, file)
    if mistakes:
        raise all_of(mistakes)
    return settings


def parse_all(text: str, file: str) -> tuple[list[Setting], list[ConfigError]]:
    """The settings that could be read, and what is wrong with the others."""
    parser = Parser(text, file)
    return list(parser.settings()), parser.mistakes


def parse_override(argument: str) -> list[Setting]:
    """`KEY=VALUE` of a command line. What is neither number, quoted string nor list is taken as text; behind a string
    or list more settings may follow, separated by `;`.
    """
    source = COMMAND_LINE
    key, equals, text = argument.partition("=")
    adds = key.endswith("+")
    key = key.removesuffix("+").strip()
    position = Position(source, 1, 1)
    if not equals or not re.fullmatch(r"[a-z][._0-9a-z]*", key):
        raise ConfigError(position, f"'{argument}' is not KEY=VALUE")
    if text.lstrip()[:1] in ("'", '"', "[") or re.fullmatch(r"0x[0-9a-f]+|[0-9]+", text):
        return parse(argument, source)
    return [Setting(key, Atom(text, Position(source, 1, len(argument) - len(text) + 1)), position, adds)]


class Parser:
    """Reads one text from left to right, one token ahead."""

    def __init__(self, text: str, file: str) -> None:
        self.mistakes: list[ConfigError] = []
        self._tokens = scan(text, file)
        self._next = next(self._tokens)
        self._in_list = False

    def settings(self) -> Iterator[Setting]:
        """Every setting that can be read, in order; the others are put among the mistakes."""
        while self._next.kind != "end" and len(self.mistakes) < MAX_MISTAKES:
            if self._next.kind == "newline" or self._next.text == ";":
                self._take()
                continue
            self._in_list = False
            try:
                setting = self._setting()
                if self._next.kind not in ("newline", "end") and self._next.text != ";":
                    self._refuse("a newline or ';' after the value")
            except ConfigError as error:
                self.mistakes.append(error)
                self._skip()
            else:
                yield setting

    def _skip(self) -> None:
        """To the next line; from within a list to the next line that begins with a key."""
        while True:
            while self._next.kind not in ("newline", "end"):
                self._take()
            self._skip_newlines()
            if not self._in_list or self._next.kind in ("key", "end"):
                return

    def _setting(self) -> Setting:
        if self._next.kind != "key":
            self._refuse("a key in small letters")
        key = self._take()
        if self._next.kind != "sign" or self._next.text not in ("=", "+="):
            self._refuse(f"'=' after {key.text}", PYTHON_HINT if key.text in PYTHON else "")
        adds = self._take().text == "+="
        return Setting(key.text, self._value(0), key.position, adds)

    def _value(self, depth: int) -> Value:
        if self._next.kind == "string":
            token = self._take()
            return Atom(unquote(token), token.position)
        if self._next.kind == "number":
            token = self._take()
            return Atom(token.text, token.position, quoted=False)
        if self._next.text != "[" or self._next.kind != "sign":
            self._refuse("a quoted string, a number or a list in []")
        if depth == MAX_DEPTH:
            raise ConfigError(self._next.position, f"lists are nested more than {MAX_DEPTH} deep")
        return self._list(depth)

    def _list(self, depth: int) -> ListValue:
        position = self._take().position
        self._in_list = True
        items: list[Value] = []
        self._skip_newlines()
        while self._next.text != "]" or self._next.kind != "sign":
            items.append(self._value(depth + 1))
            self._skip_newlines()
            if self._next.kind == "sign" and self._next.text == ",":
                self._take()
                self._skip_newlines()
            elif self._next.kind != "sign" or self._next.text != "]":
                self._refuse("',' or ']' in the list")
        self._take()
        return ListValue(tuple(items), position)

    def _skip_newlines(self) -> None:
        while self._next.kind == "newline":
            self._take()

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _refuse(self, wanted: str, hint: str = "") -> NoReturn:
        kind, text, position = self._next
        if kind == "bad":
            raise ConfigError(position, text)
        found = {"newline": "the end of the line", "end": "the end"}.get(kind, f"'{text}'")
        raise ConfigError(position, f"expected {wanted}, found {found}{hint}")


def scan(text: str, file: str) -> Iterator[Token]:
    """The tokens of `text` without blanks, then one of kind `end`; what is none is of kind `bad`, with the reason as its text."""
    at, line, line_start = 0, 1, 0
    while at < len(text):
        position = Position(file, line, at - line_start + 1)
        match = TOKENS.match(text, at)
        if match is None:
            yield Token("bad", unreadable(text, at), position)
            at += 1
            continue
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "newline":
            line, line_start = line + 1, at
        if kind != "space":
            yield Token(kind, match.group(), position)
    yield Token("end", "", Position(file, line, at - line_start + 1))


PYTHON_HINT: Final = "; this looks like Python, of which xl.cfg has nothing: write the value out"
CRLF_HINT: Final = "the line ends in CR LF, which xl takes for an error; sed -i 's/\\r$//' mends the file"
COMMENT_HINT: Final = (
    "the comment in the last line has no newline behind it, which xl takes for an error; add one"
)


def unreadable(text: str, at: int) -> str:
    """What to say of a character that begins no token."""
    character = text[at]
    if character == "\r":
        return CRLF_HINT
    if character == "#":
        return COMMENT_HINT
    if character in "'\"":
        return f"the string that begins with {character} is not closed on its line"
    if character.isalpha() or character in "/.":
        return f"'{character}' begins neither a key nor a value; text must be quoted"
    return f"unexpected character {character!r}" + (PYTHON_HINT if character in "+-():" else "")


def unquote(token: Token) -> str:
    """The text of a quoted string, escapes resolved."""

    def resolve(match: re.Match[str]) -> str:
        hexadecimal, octal, letter = match.groups()
        if hexadecimal or octal:
            return chr(int(hexadecimal, 16) if hexadecimal else int(octal, 8) & 0xFF)
        if letter not in ESCAPED:
            at = token.position
            column = at.column + 1 + match.start()
            raise ConfigError(Position(at.file, at.line, column), f"unknown escape \\{letter} in a string")
        return ESCAPED[letter]

    return ESCAPE.sub(resolve, token.text[1:-1])
