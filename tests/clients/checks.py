"""What the scripts that drive a server have in common: the pictures, broken ones, and how a script runs its checks."""

import base64
import sys
import traceback
from pathlib import Path


class Pictures:
    """The JPEG and PNG files of a folder, by name, and some that are none."""

    def __init__(self, folder):
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix in (".jpg", ".png"))
        self.files = [path.read_bytes() for path in paths]
        assert len(self.files) >= 8, f"{folder} has {len(self.files)} pictures"

    def text(self, index):
        return base64.b64encode(self.files[index]).decode()

    def uri(self, index):
        kind = "png" if self.files[index].startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{self.text(index)}"

    def broken(self):
        """(what is wrong, the text that a client sends, the status that answers it)"""
        cut = self.files[0][: len(self.files[0]) // 2]
        bomb = bytearray(b"BM" + bytes(52))
        bomb[10:18] = (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
        bomb[18:30] = (60_000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little")
        yield "a picture that is cut short", base64.b64encode(cut).decode(), 400
        yield "a header that claims 60,000 pixels a side", base64.b64encode(bomb).decode(), 413
        yield "text", base64.b64encode(b"this is not a picture").decode(), 400
        yield "something that is not base64", "%%% not base64 %%%", 400
        yield "an empty string", "", 400
        yield "a path", "/etc/passwd", 400
        yield "a file URI", "file:///etc/passwd", 400
        yield "an address to fetch", "http://127.0.0.1:1/picture.jpg", 400


def near(a, b, within=1e-5):
    return len(a) == len(b) and all(abs(x - y) <= within for x, y in zip(a, b))


def raised(kind, call, *arguments, **keywords):
    """The error that a call ends with."""
    try:
        answer = call(*arguments, **keywords)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected; the answer was {answer!r}")


def run(checks):
    """Runs each check, prints its name as the sentence it is, and ends with status 1 if one failed."""
    failed = 0
    for check in checks:
        sentence = check.__name__.replace("_", " ")
        try:
            check()
            print(f"checked: {sentence}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED: {sentence}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)
