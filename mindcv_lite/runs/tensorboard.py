"""What TensorBoard shows of a run, in its event files: by the package tensorboard, which may be missing."""

import io
import os
import socket
import textwrap
import time
from pathlib import Path
from typing import Any

from PIL import Image

from mindcv_lite.runs.results import EpochResult

SCALARS = {
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "accuracy/top1": "top1",
    "accuracy/top5": "top5",
    "accuracy/balanced": "balanced_accuracy",
    "lr": "lr",
    "images_per_second": "images_per_second",
    "ms_per_step": "ms_per_step",
    "waited": "waited",
}


def events_folder(run: Path) -> Path:
    """The folder of a run's event files, whose name TensorBoard shows: the one that is there, or the run's name."""
    folder = run / "tensorboard"
    there = sorted(folder.iterdir()) if folder.exists() else []
    if any(path.is_file() for path in there):  # of an earlier version
        return folder
    return there[0] if there else folder / run.resolve().name


class EventFile:
    """A new event file in `folder`, all of whose files TensorBoard shows as one run.

    An event is in the file when its method returns: there is no thread, and a kill loses nothing. `step`: what earlier
    files say of later ones is void, because a run that goes on from an older state makes them again.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self.records = RecordWriter(open(folder / name, "xb"))  # noqa: SIM115  (until the run ends)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add_result(self, result: EpochResult) -> None:
        """What is known of an epoch."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {tag: getattr(result, column) for tag, column in SCALARS.items()}
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items() if number is not None]
        self._write(step=result.step, summary=Summary(value=values))

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Text that is shown as it stands, not as Markdown."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(step=step, summary=text_pb(tag, textwrap.indent(text, "    ", lambda line: True)))

    def add_picture(self, tag: str, picture: Image.Image, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = io.BytesIO()
        picture.save(content, "PNG")
        width, height = picture.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content.getvalue())
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def close(self) -> None:
        self.records.close()

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self.records.flush()
