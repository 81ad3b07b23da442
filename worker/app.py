"""The command line. Each command reads its arguments, calls one step, and shows what came back."""

from __future__ import annotations

import signal
import sys
import threading
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import REGISTRY
from rich.live import Live

from worker import logs
from worker.bench.command import bench
from worker.capture.command import run_push
from worker.config import DEFAULT_REDIS, WorkerSettings, secrets_from_files
from worker.errors import MienError, SettingsError
from worker.logs import LogFormat, LogLevel
from worker.operate.dead_command import app as dead_app
from worker.operate.doctor_command import doctor
from worker.operate.feeds_command import app as feeds_app
from worker.records import Policy, PreviewMode, Provider
from worker.subscribe.events import Gap, Rewind, events
from worker.subscribe.watch import Board, line_of
from worker.terminal import plain_console, say, screen
from worker.web.command import app as web_app
from worker.wire.codec import event_to_json
from worker.wire.keys import check_feed_name
from worker.wire.registry import MAX_DEPTH, registered
from worker.wire.server import Server
from worker.wire.workers import process_name

app = typer.Typer(
    help="Video feeds in, faces found, perceived expressions out as events.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(feeds_app, name="feeds")
app.add_typer(dead_app, name="dead")
app.add_typer(web_app, name="web")
app.command("bench")(bench)
app.command("doctor")(doctor)

Redis = Annotated[str, typer.Option(envvar="MIEN_REDIS", help="URL of the Redis or Valkey server.")]
Model = Annotated[Path | None, typer.Option(help="ONNX classifier instead of the one that ships.")]


def _stop_on_signals(*, unwind: bool = False) -> threading.Event:
    """An event that SIGINT and SIGTERM set; the second signal ends the process at once.

    ``unwind``: as a SystemExit, so that what the process has started ends with it.
    """
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()
        if not unwind:
            # The next one is the kernel's: Python would hear of it when a native call returns.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


@app.command("push")
def push_command(
    source: Annotated[
        str | None, typer.Argument(help="Video file, folder of images, camera index or URL.")
    ] = None,
    feed: Annotated[str | None, typer.Option(help="Name of the feed.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Push the many feeds of this TOML file instead.")
    ] = None,
    redis: Redis = DEFAULT_REDIS,
    policy: Annotated[
        Policy | None, typer.Option(help="Default: lossless for files, live for the rest.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, max=MAX_DEPTH, help="Frames that may wait to be read.")
    ] = None,
    staleness: Annotated[
        float | None, typer.Option(help="Seconds after which a waiting live frame is skipped.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Take at most so many frames a second.")] = None,
    first: Annotated[
        float | None, typer.Option(help="Push so many seconds of the source, and end.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Scale wider pictures down to this.")] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality, 1 to 100 (85).")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Give a file at its own pace.")
    ] = False,
    stall: Annotated[
        float | None,
        typer.Option(help="Open a camera or URL again when it is silent for so many seconds (10)."),
    ] = None,
    give_up: Annotated[
        float | None,
        typer.Option(help="End when a camera or URL is away for so many seconds (never)."),
    ] = None,
    decode_threads: Annotated[
        int | None, typer.Option(help="Threads that decode a video (1).")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="Keep frames until so many replicas have them, for a failover (0)."),
    ] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Push a video source to a feed, or many to theirs. Cameras and URLs are opened again when
    they break off.

    Examples: mien push holiday.mp4 --feed holiday

    mien push --config feeds.toml
    """
    given = {
        "policy": policy, "depth": depth, "staleness_s": staleness, "fps": fps, "first_s": first,
        "width": width, "quality": quality, "loop": loop or None, "realtime": realtime or None,
        "stall_s": stall, "give_up_s": give_up, "decode_threads": decode_threads,
        "replicas": replicas,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    logs.configure(log_level, log_format)
    run_push(
        source, feed, config, given, redis=redis, stop=_stop_on_signals(), screen=screen,
        say=logs.tell,
    )  # fmt: skip


@app.command("worker")
def worker_command(
    redis: Redis = DEFAULT_REDIS,
    feed: Annotated[list[str] | None, typer.Option(help="Only this feed; may be repeated.")] = None,
    model: Model = None,
    provider: Annotated[
        Provider | None,
        typer.Option(help="Where the networks run; auto: on a GPU if one is there."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="How many cores to use.")] = None,
    min_face: Annotated[int | None, typer.Option(help="Smallest face, in pixels.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Frames analysed together.")] = None,
    detect_every: Annotated[
        int | None, typer.Option(help="Look for new faces in every so many frames; 1: in all.")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="Seconds over which a face's labels are averaged; 0: not.")
    ] = None,
    classify_every: Annotated[
        int | None, typer.Option(help="Classify each face in every so many frames.")
    ] = None,
    preview: Annotated[
        PreviewMode | None, typer.Option(help="Small pictures for the page, kept for seconds.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics, /healthz and /readyz here.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address for --metrics-port.")] = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Analyse the frames of all feeds and publish events, until stopped.

    Example: mien worker --metrics-port 9100
    """
    # The models' libraries load slowly: only a worker pays for them.
    from worker import health, pipeline
    from worker.analysis import Analyst, load_models
    from worker.cores import Cores
    from worker.emotion.reload import ModelFile
    from worker.metrics import Metrics

    settings = WorkerSettings.load(
        redis=redis, feeds=tuple(feed) if feed else None, model=model, provider=provider,
        threads=threads, min_face=min_face, batch_size=batch_size, preview=preview,
        detect_every=detect_every, smooth_s=smooth, classify_every=classify_every,
        metrics_port=metrics_port, metrics_host=metrics_host,
    )  # fmt: skip
    for name in settings.feeds or ():
        check_feed_name(name)
    stop = _stop_on_signals()
    log = structlog.get_logger()
    metrics, state = Metrics(REGISTRY), health.Health()
    logs.configure(log_level, log_format, count=metrics.logged, worker=process_name())
    if settings.metrics_port is not None:
        http = health.serve(settings.metrics_host, settings.metrics_port, REGISTRY, state)
        log.info("metrics served", host=settings.metrics_host, port=http.server_port)
    cores = Cores(settings.threads)
    detector, classifier = load_models(settings, cores)
    metrics.model("detector", detector.info)
    analyst = Analyst(detector, classifier, settings, metrics, cores=cores, alive=state.turn)
    server = Server(settings.redis)
    metrics.introduce(process_name(), server.name)
    server.now_us()  # a wrong address is said at once; an outage later on is waited for
    server.load_scripts()
    log.info(
        "worker ready", server=server.name, model=classifier.info.name, threads=settings.threads
    )
    analyst.try_models()
    if settings.model is not None:
        model_file = ModelFile(
            settings.model, classifier, analyst.use,
            provider=settings.provider, engine_cache=settings.engine_cache,
        )  # fmt: skip
        signal.signal(signal.SIGHUP, lambda *_: model_file.look())
    else:  # said to all workers, it is not to end those that have no file to look at
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loop = pipeline.Pipeline(server, analyst, settings, metrics, state)
    state.watch()
    loop.run(stop)
    log.info("worker stopped")


@app.command("watch")
def watch_command(
    feed: Annotated[
        str | None, typer.Argument(help="Feed to watch; all of them if left out.")
    ] = None,
    redis: Redis = DEFAULT_REDIS,
    since: Annotated[str, typer.Option(help="now, start, an event's id, or a time.")] = "now",
    json: Annotated[bool, typer.Option("--json", help="One JSON event a line.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for new events.")
    ] = True,
) -> None:
    """Show events as they are published.

    Example: mien watch --json | jq .faces[].label
    """
    stop = _stop_on_signals()
    board = Board()

    def on_gap(gap: Gap) -> None:
        board.trimmed(gap.missing)
        if json or not screen.is_terminal:
            count = "some" if gap.missing is None else gap.missing
            print(f"mien: {gap.feed}: {count} events trimmed before {gap.before}", file=sys.stderr)

    def on_rewind(rewind: Rewind) -> None:
        board.rewound()
        if json or not screen.is_terminal:
            words = f"the server went back from {rewind.seen} to {rewind.last}"
            print(f"mien: {rewind.feed}: {words}", file=sys.stderr)

    found = events(
        feed, redis=redis, since=_moment(since), follow=follow, stop=stop,
        on_gap=on_gap, on_rewind=on_rewind,
    )  # fmt: skip
    if feed is not None:
        _check_registered(Server(redis), feed, wait=follow)
    if json or not sys.stdout.isatty():
        for event in found:
            print(event_to_json(event) if json else line_of(event), flush=True)
        return
    with Live(board, console=plain_console(), refresh_per_second=8):
        for event in found:
            board.add(event)


def _check_registered(server: Server, feed: str, *, wait: bool) -> None:
    """A feed that is not there yet can be waited for; otherwise it is a mistake."""
    if feed not in registered(server)[0]:
        if not wait:
            raise MienError(f"no feed {feed} is registered at {server.name}")
        say(f"waiting: no feed {feed} is registered at {server.name} yet")
    server.close()


@app.command("demo")
def demo_command(
    video: Annotated[str | None, typer.Option(help="Your own file, folder or URL.")] = None,
    camera: Annotated[int | None, typer.Option(help="Index of a camera; Ctrl-C ends it.")] = None,
    redis: Annotated[
        str | None, typer.Option(help="Your own server; without it one is started.")
    ] = None,
    model: Model = None,
    annotate: Annotated[
        Path | None, typer.Option(help="Write the video with boxes and labels here.")
    ] = None,
    preview: Annotated[
        PreviewMode | None,
        typer.Option(help="Pictures on the page; of the sample clip clear, else off."),
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Again and again, with the page, until Ctrl-C.")
    ] = False,
) -> None:
    """Run the whole main job once: server, worker, page, push, live events, summary.

    Example: mien demo --video holiday.mp4 --annotate out.mp4

    mien demo --stay
    """
    from worker.demo import demo

    if video is not None and camera is not None:
        raise SettingsError("give --video or --camera, not both")
    source = video if video is not None else None if camera is None else str(camera)
    if stay and annotate:
        raise SettingsError("--annotate wants an end, and with --stay there is none")
    demo(
        source, redis=redis, model=model, annotate=annotate, preview=preview, stay=stay,
        stop=_stop_on_signals(unwind=True),
    )  # fmt: skip


def _moment(since: str) -> str | datetime:
    """A time if it reads as one (local unless it says otherwise), else the text as it is."""
    try:
        return since if since.isdigit() else datetime.fromisoformat(since).astimezone()
    except (ValueError, OverflowError):
        return since


# The offline half is not known here: it offers its commands by name.
for _entry in entry_points(group="mien.commands"):
    app.command(_entry.name)(_entry.load())


def main() -> None:
    """The ``mien`` command: a user's mistake gives one sentence and a non-zero exit status."""
    try:
        secrets_from_files()
        app()
    except MienError as error:
        logs.tell(str(error), level="error")
        raise SystemExit(2 if isinstance(error, SettingsError) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
