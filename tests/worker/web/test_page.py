"""The page in a real browser, on a running set-up: what is seen, said and reached by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.processes import mien
from tests.feeds import wait_until
from tests.worker.web.browser import Looked, browsing, looked_at
from tests.worker.web.stage import Stage, staged
from worker.wire.registry import register
from worker.wire.server import Server

FEED = "lobby"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stage"), [FEED]) as stage:
        yield stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def seen(browser: Browser, stage: Stage) -> Iterator[Looked]:
    """The page of the set-up; at the end nothing may stand in its console."""
    with looked_at(browser, stage.page) as seen:
        yield seen
        assert seen.complaints == []
        assert seen.hosts == {stage.page.split("/")[2]}


PIXELS = """(selector) => {
    const canvas = document.querySelector(selector);
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
}"""


def colour_seen(seen: Looked, canvas: str, label: str) -> int:
    """How many of a canvas's pixels have exactly the colour of an expression."""
    count: int = seen.page.evaluate(
        f"""async ([selector, label]) => {{
            const {{ coloursAt }} = await import("/static/js/palette.js");
            const hex = coloursAt(document.querySelector(selector)).of(label);
            const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
            const data = ({PIXELS})(selector);
            let count = 0;
            for (let i = 0; i < data.length; i += 4)
                count += data[i] === r && data[i + 1] === g && data[i + 2] === b;
            return count;
        }}""",
        [canvas, label],
    )
    return count


def settled(check: Callable[[], bool]) -> None:
    wait_until(check, timeout_s=30)


def test_a_feed_has_a_card_with_its_faces_and_figures(seen: Looked) -> None:
    card = seen.page.locator(f".card[data-feed={FEED}]")
    card.wait_for()
    seen.says(f".card[data-feed={FEED}] .condition", "live")
    picture = f".card[data-feed={FEED}] .picture"
    settled(lambda: "face" in (seen.page.get_attribute(picture, "aria-label") or ""))
    labels = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    settled(lambda: any(colour_seen(seen, picture, label) > 30 for label in labels))
    strip = f".card[data-feed={FEED}] .strip"
    settled(lambda: any(colour_seen(seen, strip, label) > 30 for label in labels))
    settled(lambda: re.fullmatch(r"\d+\sms|[\d.]+\ss", seen.figure(FEED, "p50")) is not None)
    settled(lambda: re.fullmatch(r"[1-9][\d.]*", seen.figure(FEED, "out/s")) is not None)
    seen.says(".workers-panel h2", "1 worker")
    seen.says(".foot", "perceived expressions")
    seen.says("#legend", "happy")


def test_boxes_stand_on_the_picture_of_their_own_frame(seen: Looked) -> None:
    """Against the frame's pixels as they were pushed: the picture is there, and it is that one."""
    seen.page.locator(f".card[data-feed={FEED}]").wait_for()
    settled(lambda: seen.page.evaluate(f"new Set(({PIXELS})('.picture')).size") > 200)
    same = """async () => {
        const { FeedState } = await import("/static/js/state.js");
        const state = new FeedState("x");
        const bitmap = () => createImageBitmap(new ImageData(1, 1));
        const event = (ms) => ({ id: `${ms}-0`, ms, faces: [], latency: 0 });
        state.addEvent(event(1));
        state.addPicture({ id: "2-0", bitmap: await bitmap() });   // before its event
        const early = state.shown.bitmap;
        state.addEvent(event(2));
        const met = [state.shown.event.id, state.shown.bitmap !== null];
        state.addEvent(event(3));
        const kept = state.shown.event.id;                          // not the newer event's boxes
        state.addEvent(event(60000));
        return [early, met, kept, state.shown.event.id, state.shown.bitmap];
    }"""
    assert seen.page.evaluate(same) == [None, ["2-0", True], "2-0", "60000-0", None]


def test_by_keyboard_from_the_wall_into_a_feed_and_back(seen: Looked) -> None:
    page = seen.page
    page.locator(f".card[data-feed={FEED}]").wait_for()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == FEED
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/#/feed/{FEED}")
    seen.says("h1", FEED)
    page.locator(".lane-names button").first.wait_for()
    page.locator(".faces li").first.wait_for()
    page.locator(".uplot").wait_for()
    before = page.inner_text(".shown")
    page.keyboard.press("+")
    settled(lambda: page.inner_text(".shown") != before)
    assert "now" in page.inner_text(".shown")
    page.keyboard.press("ArrowLeft")
    settled(lambda: "now" not in page.inner_text(".shown"))
    assert page.get_attribute(".live", "aria-pressed") == "false"
    page.keyboard.press("Escape")
    settled(lambda: page.get_attribute(".live", "aria-pressed") == "true")
    page.keyboard.press("Escape")
    page.locator(".wall").wait_for()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("nothing like it")
    seen.says(".nothing", "nothing like it")


def test_a_click_on_the_timeline_shows_that_moment(seen: Looked) -> None:
    page = seen.page
    page.goto(f"{seen.address}#/feed/{FEED}")
    page.locator(".lane-names button").first.wait_for()
    page.get_by_role("button", name="30 s").click()

    def clicked() -> bool:
        box = page.locator(".lanes").bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] * 0.93, box["y"] + 8)
        page.wait_for_timeout(300)
        return "Frame of" in page.inner_text(".caption")

    settled(clicked)
    pinned = page.inner_text(".caption")
    page.wait_for_timeout(1000)
    assert page.inner_text(".caption") == pinned
    page.get_by_role("button", name="Live").click()
    settled(lambda: "Frame of" not in page.inner_text(".caption"))


def test_shares_and_books(seen: Looked) -> None:
    seen.page.goto(f"{seen.address}#/feed/{FEED}")
    seen.page.locator(".shares tbody tr").first.wait_for()
    shares = seen.page.locator(".shares tbody td:nth-child(2)").all_inner_texts()
    numbers = [float(text.replace("<1", "0").split()[0]) for text in shares]
    assert 95 <= sum(numbers) <= 105
    settled(lambda: int(seen.book("offered").replace(",", "")) > 0)
    settled(lambda: "mien-" in seen.book("model"))


@pytest.mark.parametrize("address", ["#/", f"#/feed/{FEED}"])
def test_on_a_phone_nothing_reaches_beyond_the_screen(
    browser: Browser, stage: Stage, address: str
) -> None:
    with looked_at(browser, stage.page + address, width=390, height=844) as seen:
        seen.page.locator(".condition").first.wait_for()
        seen.page.wait_for_timeout(1500)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
        small = seen.page.evaluate("""() => [...document.querySelectorAll("button")]
            .filter((b) => b.offsetParent && !b.closest(".lane-names, .faces"))
            .map((b) => [b.textContent, b.getBoundingClientRect().height])
            .filter((b) => b[1] < 32)""")
        assert small == [], "buttons too small for a finger"


@pytest.mark.parametrize("address", ["#/", f"#/feed/{FEED}"])
def test_every_control_has_a_name_and_headings_are_in_order(seen: Looked, address: str) -> None:
    seen.page.goto(seen.address + address)
    seen.page.locator(".condition").first.wait_for()
    seen.page.wait_for_timeout(1000)
    nameless = seen.page.evaluate("""() => [...document.querySelectorAll(
            "button, input, a, [role=img], [role=meter], [role=radiogroup], section, dialog")]
        .filter((e) => e.getAttribute("aria-hidden") !== "true")
        .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
            || e.labels?.length || e.textContent.trim()))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []


def test_a_feed_that_is_not_there(seen: Looked) -> None:
    seen.page.goto(f"{seen.address}#/feed/nowhere")
    seen.says(".condition", "there is no feed nowhere")


def test_an_address_that_names_no_feed_shows_the_wall(seen: Looked) -> None:
    seen.page.goto(f"{seen.address}#/feed/{FEED}")
    seen.says("h1", FEED)
    seen.page.goto(f"{seen.address}#/feed/%zz")
    seen.page.locator(f".card[data-feed={FEED}]").wait_for()


def test_series_keep_their_order_each_event_once(seen: Looked) -> None:
    found = seen.page.evaluate("""async () => {
        const { Series, lanesOf } = await import("/static/js/series.js");
        const series = new Series(40);
        const face = (track, label) => ({ track, label, uncertain: false });
        const event = (ms, ...faces) => ({ id: `${ms}-0`, ms, faces, latency: ms / 1000 });
        for (const ms of [300, 100, 200, 200, 900]) series.add(event(ms, face(1, "sad")));
        series.add(event(1000, face(1, "happy"), face(2, "sad")));
        series.add(event(9000, face(1, "happy")));
        const order = series.events.map((one) => one.ms);
        const lanes = lanesOf(series.between(0, 1000))
            .map(({ track, spans }) => [track, spans.length]);
        series.rewind("900-0");
        const back = series.newest.ms;
        for (let ms = 10000; ms < 10100; ms += 1) series.add(event(ms));
        const nearest = series.nearest(10098, 5).ms;
        return { order, lanes, back, kept: series.events.length <= 40, nearest };
    }""")
    assert found == {
        "order": [100, 200, 300, 900, 1000, 9000],
        "lanes": [[2, 1], [1, 2]],
        "back": 900,
        "kept": True,
        "nearest": 10098,
    }


def test_it_says_that_there_is_no_feed_and_no_worker(browser: Browser, tmp_path: Path) -> None:
    with staged(tmp_path, worker=False) as stage, looked_at(browser, stage.page) as seen:
        seen.says(".nothing", "No feed yet")
        seen.says(".workers-panel", "No worker is running")
        stage.push("door")  # appears by itself; nobody reads it
        seen.says(".card[data-feed=door] .condition", "no worker is running")
        assert seen.complaints == []


def test_who_needs_a_token_is_asked_for_one(browser: Browser, tmp_path: Path) -> None:
    file = str(tmp_path / "tokens.toml")
    made = mien("web", "token", "guard", "--feeds", "door*", "--tokens", file)
    token = re.search(r"mien_\S+", made.stdout + made.stderr)
    assert token, made.stderr
    with Stage(tmp_path) as stage:
        stage.start_web("--tokens", file)
        for feed in ("door-1", "vault"):
            register(Server(stage.redis), feed)
        with looked_at(browser, stage.page) as seen:
            seen.page.locator("#session").wait_for()
            seen.page.fill("#token", "mien_nobody")
            seen.page.keyboard.press("Enter")
            seen.page.locator("#session-error:not(:empty)").wait_for()
            seen.page.fill("#token", token[0])
            seen.page.keyboard.press("Enter")
            seen.page.locator(".card[data-feed=door-1]").wait_for()
            assert seen.page.locator(".card").count() == 1, "the vault is not this token's"
            assert token[0] not in seen.page.evaluate("document.cookie + location.href")
            seen.page.reload()
            seen.page.locator(".card[data-feed=door-1]").wait_for()
            seen.page.get_by_role("button", name="Sign out").click()
            seen.page.locator("#session").wait_for()


def test_it_says_when_servers_go_away(browser: Browser, tmp_path: Path) -> None:
    with staged(tmp_path, [FEED]) as stage, looked_at(browser, stage.page) as seen:
        condition = f".card[data-feed={FEED}] .condition"
        seen.says(condition, "live")
        stage.end_pushes()
        seen.says(condition, "silent for")
        ages = {seen.page.inner_text(condition)}
        settled(lambda: len(ages.union({seen.page.inner_text(condition)})) > 1)  # it grows
        stage.kill_redis()
        seen.says("#banner", "redis")
        seen.says(condition, "not connected, last event")
        assert stage.web
        stage.web.kill()
        seen.says("#banner", "does not answer")
        seen.says("#link-state", "not connected")
