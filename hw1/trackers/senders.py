"""Each tracker: how what is known of a job or a sweep is put into it."""

import contextlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hw1.errors import shortened, written
from hw1.progress import PLAN, RESULT, shown
from hw1.trackers.record import Record, plain

LONGEST = 5_000  # characters of a parameter or a tag; MLflow takes 6,000 and 8,000
BATCH = 900  # metrics in one request to MLflow, which takes 1,000


class Sender(ABC):
    """One tracker; made where something is to be sent, as its library takes a second to import.

    Args:
        node: its settings.
        group: the sweep's name; "" for a job by itself.
    """

    def __init__(self, node: Mapping[str, Any], group: str) -> None:
        self.node, self.group = node, group

    @abstractmethod
    def start(self, record: Record, parent: str | None) -> str:
        """Make a place for a record, within its sweep's; its id."""

    @abstractmethod
    def fill(self, place: str, record: Record) -> None:
        """Send a record; of a sweep maybe once more, with what is new in it."""

    def discard(self, place: str) -> None:  # noqa: B027 (not all of them can)
        """Take away what was begun and not finished."""

    @abstractmethod
    def look(self, place: str) -> str:
        """Where it went and how to look at it, for the terminal; `place` is the sweep's, or the job's."""


class TensorBoard(Sender):
    """Event files: a folder for the sweep, in it one for each job, with the means, and in that one for each replica."""

    def __init__(self, node: Mapping[str, Any], group: str) -> None:
        super().__init__(node, group)
        self.logdir = Path(node["logdir"])

    def start(self, record: Record, parent: str | None) -> str:
        name = plain(record.name).replace("/", "_").replace(":", "_").strip(". ")[:120]
        if parent:
            name = f"{record.folder.name} {name}"
        place = (self.logdir / parent if parent else self.logdir) / name
        for number in range(2, 10_000):
            if not place.exists():
                break
            place = place.with_name(f"{name}_{number}")
        place.mkdir(parents=True)
        return str(place.relative_to(self.logdir))

    def fill(self, place: str, record: Record) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb

        texts = {"about": _described(record), "config": _block(record.config)}
        with self._events(place, record.ended) as write:
            for tag, text in texts.items():
                write(text_pb(tag, text), 0)
            for file in record.figures:
                image = file.read_bytes()
                width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))  # of the PNG's header
                picture = Summary.Image(encoded_image_string=image, width=width, height=height, colorspace=4)
                write(Summary(value=[Summary.Value(tag=file.stem, image=picture)]), 0)
            if record.values and record.series:
                values = {key: v if isinstance(v, bool | int | float) else str(v) for key, v in record.values.items()}
                write(hparams_pb(values, trial_id=place, start_time_secs=record.began), 0)
            self._scalars(write, record, None)
        for replica in dict.fromkeys(replica for _, replica in record.series if replica is not None):
            with self._events(f"{place}/replica_{replica}", record.ended) as write:
                self._scalars(write, record, replica)

    @staticmethod
    def _scalars(write: Callable[[Any, int], None], record: Record, replica: int | None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for (name, of), points in record.series.items():
            for step, value in points if of == replica else []:
                write(Summary(value=[Summary.Value(tag=name, simple_value=value)]), step)

    @contextlib.contextmanager
    def _events(self, place: str, when: float) -> Iterator[Callable[[Any, int], None]]:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter(str(self.logdir / place))
        try:
            yield lambda summary, step: writer.add_event(Event(wall_time=when, step=step, summary=summary))
        finally:
            writer.close()

    def look(self, place: str) -> str:
        return f"{self.logdir / place} (tensorboard --logdir {self.logdir})"


class MLflow(Sender):
    """Runs; those of a sweep's jobs are nested under its own."""

    def __init__(self, node: Mapping[str, Any], group: str) -> None:
        super().__init__(node, group)
        from mlflow import MlflowClient

        self.client = MlflowClient(node["uri"])
        self.experiment = self._experiment(node["experiment"])

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            database = sqlite_file(self.node["uri"])
            beside = (database.parent / "mlartifacts").as_uri() if database else None
            try:
                return str(self.client.create_experiment(name, artifact_location=beside))
            except Exception:
                found = self.client.get_experiment_by_name(name)  # somebody else was first
                if found is None:
                    raise
        return str(found.experiment_id)

    def start(self, record: Record, parent: str | None) -> str:
        tags = {"mlflow.source.name": "hw1", "mlflow.source.type": "LOCAL"}
        if parent:
            tags["mlflow.parentRunId"] = parent
        began = round(record.began * 1000)
        run = self.client.create_run(self.experiment, start_time=began, tags=tags, run_name=record.name)
        return str(run.info.run_id)

    def fill(self, place: str, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        when = round(record.ended * 1000)
        tags = record.tags | ({"mlflow.note.content": record.text} if record.text else {})
        if commit := record.tags.get("hw1.commit"):
            tags["mlflow.source.git.commit"] = commit
        self.client.log_batch(place, tags=[RunTag(key, shortened(value, LONGEST)) for key, value in tags.items()])
        known = self.client.get_run(place).data.params  # which cannot be changed
        config = {plain(key): shortened(written(value), LONGEST) for key, value in record.config.items()}
        params = [Param(key, value) for key, value in config.items() if key not in known]
        metrics = [Metric(name, v, when, step) for name, points in record.flat().items() for step, v in points]
        for some in _batches(params, 100):
            self.client.log_batch(place, params=some)
        for some in _batches(metrics, BATCH):
            self.client.log_batch(place, metrics=some)
        for file in [*record.figures, *_files(record.folder)]:
            self.client.log_artifact(place, str(file))
        self.client.set_terminated(place, "FINISHED" if record.status == "ok" else "FAILED", end_time=when)

    def discard(self, place: str) -> None:
        with contextlib.suppress(Exception):
            self.client.delete_run(place)

    def look(self, place: str) -> str:
        uri = self.node["uri"]
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}/#/experiments/{self.experiment}/runs/{place}"
        return f"{uri}, experiment {self.node['experiment']} (mlflow ui --backend-store-uri {uri})"


class WeightsAndBiases(Sender):
    """Runs in one group for a sweep: of job_type job, and one of job_type sweep with the comparison."""

    def __init__(self, node: Mapping[str, Any], group: str) -> None:
        super().__init__(node, group)
        self.places: list[str] = []

    def start(self, record: Record, parent: str | None) -> str:
        return secrets.token_hex(4)

    def fill(self, place: str, record: Record) -> None:
        import wandb

        offline = self.node["mode"] == "offline"
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, init_timeout=self.node["timeout"],
            x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
        )  # fmt: skip
        run = wandb.init(
            project=self.node["project"], entity=self.node["entity"], mode=self.node["mode"], id=place,
            name=record.name, group=self.group or None, job_type="sweep" if record.of_sweep else "job",
            notes=record.text or None, tags=[record.tags["hw1.experiment"][:64], record.status],
            config=_nested(record.config) | {"hw1": {k.removeprefix("hw1."): v for k, v in record.tags.items()}},
            resume=None if offline else "allow", settings=settings,
        )  # fmt: skip
        try:
            self._log(run, record)
        finally:
            run.finish(exit_code=0 if record.status == "ok" else 1)
        self.places.append(str(Path(run.settings.sync_dir)) if offline else str(run.url))

    def _log(self, run: Any, record: Record) -> None:
        import wandb

        rows: dict[int, dict[str, Any]] = {record.last_step: {}}
        for name, points in record.flat().items():
            for step, value in points:
                rows.setdefault(step, {})[name] = value
        last = rows[max(rows)]
        last |= {file.stem: wandb.Image(str(file)) for file in record.figures}
        if record.comparison is not None:
            last["comparison"] = wandb.Table(dataframe=record.comparison)
        for step in sorted(rows):
            run.log(rows[step], step=None if record.of_sweep else step)  # a sweep's may be sent once more

    def look(self, place: str) -> str:
        if self.node["mode"] == "online":
            return self.places[-1] if self.places else self.node["project"]
        folders = [shown(Path(folder)) for folder in self.places]
        return f"{Path(folders[0]).parent} (wandb sync)"


SENDERS: dict[str, type[Sender]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database, absolute; None for other tracking URIs."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(found[1]).absolute() if found else None


def _described(record: Record) -> str:
    """What is said of a record, and its tags, in Markdown."""
    return "\n\n".join([*([record.text] if record.text else []), _block(record.tags)])


def _block(values: Mapping[str, Any]) -> str:
    """Keys and values as lines of code in Markdown."""
    return "\n".join(f"    {key}: {written(value)}" for key, value in values.items())


def _files(folder: Path) -> list[Path]:
    """What is sent whole, beside the figures."""
    names = ("summary.csv", "comparison.csv", RESULT, "report.html")
    summary = [] if (folder / PLAN).exists() else [folder / names[0]]
    return [file for file in [*summary, *(folder / name for name in names[1:])] if file.exists()]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree
