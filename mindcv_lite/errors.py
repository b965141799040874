"""The exceptions of this project; what a library's error says, and any text, on one line."""

# What would move the cursor or begin a new line, in the name of a file or a class.
CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def on_one_line(text: str) -> str:
    """The text with its control characters as escapes."""
    return text.translate(CONTROLS)


class UserError(Exception):
    """A mistake that the user can mend. Its text says what, where, what was expected, what came, what to do."""


class TrainingError(RuntimeError):
    """A run that cannot go on, such as one whose loss is no longer finite; exit status 1."""


class Stopped(Exception):
    """A program that a signal stopped: with its state saved, or in one of its processes; status 128 + the signal."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number = number


def first_line(error: Exception) -> str:
    """What an error of a library says, without its long explanations: MindSpore may mark the line that tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line.removeprefix("[ERROR] ") for line in lines if line.startswith("[ERROR]")]
    return (marked or lines or [type(error).__name__])[0]
