"""Every route of the dashboard with every credential, logging in by the page, and what refusals tell."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from starlette.routing import Mount
from tests.unit.browser import Browser
from tests.unit.monitored import STATUS, step_report
from tests.unit.test_dashboard_charts import JOB

from sheepfold_server.core.permissions import ALL_JOBS, READERS, Caller, Role
from sheepfold_server.dashboard.access import table
from sheepfold_server.dashboard.access.callers import Access
from sheepfold_server.dashboard.access.front import Sizes
from sheepfold_server.dashboard.access.headers import HEADERS, WithHeaders
from sheepfold_server.dashboard.access.sessions import COOKIE, SESSION_SECONDS, SESSIONS_MAX, Sessions
from sheepfold_server.dashboard.access.table import ROUTES, RouteUndecided, Table, keys_of
from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.limits import LIMITS
from sheepfold_server.dashboard.store import Store
from sheepfold_server.shell import tokens
from sheepfold_server.shell.https import HttpCallers
from sheepfold_server.shell.tokens import Grant, Signer, Use, public_pem

KEY = Ed25519PrivateKey.generate()
HOUR = 3600.0
OURS = {"sec_fetch_site": "same-origin"}


def filled(is_open: bool = False) -> Store:
    """Two jobs; streams end at once, as when the process stops, unless it `is_open`."""
    store = Store()
    store.set_jobs(("lenet", "tenor"))
    for name in ("lenet", "tenor"):
        store.set_status(replace(STATUS, job=name, version=2, config_json=JOB.to_json()), at=100.0)
        for step in range(2):
            store.add(replace(step_report(step), job=name))
    if not is_open:
        store.feed.close()
    return store


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Access:
    file = tmp_path_factory.mktemp("keys") / "token.pub"
    file.write_bytes(public_pem(KEY.public_key()))
    return Access(HttpCallers(file).caller)


@pytest.fixture(scope="module")
def app(access: Access) -> FastAPI:
    return create_app(filled(), access)


@pytest.fixture(scope="module")
def kept_app(access: Access) -> FastAPI:
    """The coordinator does not list the two jobs any more: only the history tells of them."""
    store = filled()
    store.set_jobs(())
    return create_app(store, access)


@pytest.fixture(scope="module", params=["app", "kept_app"])
def either_app(request: pytest.FixtureRequest) -> FastAPI:
    found: FastAPI = request.getfixturevalue(request.param)
    return found


APP = create_app(filled())
KEYS = sorted(keys_of(APP.routes))
GUARDED = [key for key in KEYS if not ROUTES[key].is_open]
OF_A_JOB = [key for key in KEYS if "{job}" in key]


def token(
    role: Role = Role.READER, job: str = ALL_JOBS, use: Use = Use.JOIN, seconds: float = HOUR, **grant: str
) -> str:
    caller = Caller(role, job, "test")
    return Signer(KEY).sign(Grant(caller, use, time.time() + seconds, **grant))


def ask(app: FastAPI, key: str, shown: str = "", job: str = "lenet", **headers: str) -> httpx.Response:
    """One request of a route, as a page of ours makes it; `shown` is a token."""
    method, _, path = key.partition(" ")
    path = path.replace("{job}", job).replace("{step}", "1").replace("{slice:path}", "0")
    shown_headers = {"authorization": f"Bearer {shown}"} if shown else {}
    return Browser(app).ask(method, path, **OURS, **shown_headers, **headers)


def is_let_in(response: httpx.Response) -> bool:
    """Logging out leads to the login page too, but sets the cookie."""
    is_sent_away = response.status_code == 303 and "set-cookie" not in response.headers
    return response.status_code not in (401, 403, 404) and not is_sent_away


def session(app: FastAPI, shown: str) -> str:
    """The cookie of a login."""
    response = Browser(app).ask("POST", "/login", f"token={shown}", **OURS)
    assert (response.status_code, response.headers["location"]) == (303, "/"), response.text
    return response.headers["set-cookie"].partition(";")[0]


# --- the table ------------------------------------------------------------------------------------------


def test_open_are_health_login_and_what_the_login_page_shows() -> None:
    assert {key for key in KEYS if ROUTES[key].is_open} == {
        *("GET /healthz", "GET /readyz", "GET /login", "POST /login"),
        *("GET /static/page.css", "GET /static/icon.svg"),
    }


def test_roles_are_those_that_may_read_by_grpc() -> None:
    assert {str(role) for role in READERS} == table.READERS


@pytest.mark.parametrize("key", ["GET /api/v1/jobs/{job}/steps", "GET /metrics", "POST /logout"])
def test_route_that_nobody_decided_about_keeps_the_process_from_starting(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.delitem(ROUTES, key)
    with pytest.raises(RouteUndecided, match=f"^{re.escape(key)}: nobody has decided"):
        create_app(Store())


def test_route_and_mount_that_are_added_need_a_row() -> None:
    added = create_app(Store())
    added.get("/more")(lambda: None)
    added.router.routes.append(Mount("/files", app=APP))
    with pytest.raises(RouteUndecided, match=r"^GET /more, Mount /files: nobody"):
        Table().check(added.routes)


def test_row_without_a_route_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTES, "GET /gone", table.READ)
    with pytest.raises(RouteUndecided, match=r"^GET /gone: a row for a route that is not there"):
        create_app(Store())


def test_route_without_a_row_is_refused_even_if_it_was_added_later(access: Access) -> None:
    late = create_app(filled(), access)
    late.get("/late")(lambda: "secret")
    assert Browser(late).get("/late").status_code == 401
    assert ask(late, "GET /late", token(Role.ADMIN)).status_code == 404


# --- the matrix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", GUARDED)
def test_nothing_is_answered_without_a_credential(app: FastAPI, key: str) -> None:
    response = ask(app, key)
    assert not is_let_in(response)
    if response.status_code == 303:
        assert ROUTES[key].is_page
        assert response.headers["location"] == "/login"
    else:
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    if key.startswith("GET"):
        assert not is_let_in(ask(app, f"HEAD{key[3:]}"))


@pytest.mark.parametrize("key", GUARDED)
@pytest.mark.parametrize("use", list(Use))
@pytest.mark.parametrize("role", list(Role))
def test_role_may_ask_for_what_its_row_says(app: FastAPI, key: str, role: Role, use: Use) -> None:
    assert is_let_in(ask(app, key, token(role, use=use))) is (role in ROUTES[key].roles)


@pytest.mark.parametrize("key", GUARDED)
def test_session_of_a_browser_opens_the_same(app: FastAPI, key: str) -> None:
    assert is_let_in(ask(app, key, cookie=f"theme=dark; {session(app, token())}"))
    assert not is_let_in(ask(app, key, cookie=f"{COOKIE}=bm90IG91cnM"))


@pytest.mark.parametrize("key", GUARDED)
def test_bad_token_is_refused_everywhere(app: FastAPI, key: str) -> None:
    stranger = Signer(Ed25519PrivateKey.generate()).sign(
        Grant(Caller(Role.ADMIN, subject="stranger"), Use.JOIN, time.time() + HOUR)
    )
    ended, bound = token(Role.ADMIN, seconds=-120.0), token(Role.ADMIN, certificate="ab" * 32)
    for shown in (stranger, ended, bound, "x", token() + "x", f"{token()}, Bearer {token()}"):
        response = ask(app, key, shown)
        assert not is_let_in(response), shown
        assert shown not in response.text


@pytest.mark.parametrize("key", GUARDED)
def test_bad_token_is_not_made_good_by_a_session(app: FastAPI, key: str) -> None:
    assert not is_let_in(ask(app, key, "x", cookie=session(app, token())))


@pytest.mark.parametrize("key", [*OF_A_JOB, "GET /api/v1/events"])
def test_job_of_others_looks_as_if_it_were_not_there(either_app: FastAPI, key: str) -> None:
    """`lenet` exists, `tenet` does not."""
    told = []
    for job in ("lenet", "tenet"):
        at = f"{key}?job={job}" if key.endswith("v1/events") else key
        response = ask(either_app, at, token(Role.ADMIN, job="mine"), job)
        assert response.status_code == 404
        told.append(f"{response.headers} {response.text}".replace(job, "JOB"))
    assert told[0] == told[1]
    assert "tenor" not in told[0]


@pytest.mark.parametrize("key", OF_A_JOB)
def test_job_of_ones_own_is_seen_and_does_not_name_others_while_it_is_missing(app: FastAPI, key: str) -> None:
    assert ask(app, key, token(job="lenet")).status_code == 200
    missing = ask(app, key, token(job="mine"), "mine")
    assert missing.status_code == 404
    assert "lenet" not in missing.text
    assert "no job named 'mine'" in missing.text


@pytest.mark.parametrize("key", OF_A_JOB)
def test_kept_job_of_ones_own_is_seen_and_what_is_not_kept_of_it_names_no_other(
    kept_app: FastAPI, key: str
) -> None:
    whole, own = (ask(kept_app, key, token(job=job)) for job in (ALL_JOBS, "lenet"))
    assert (own.status_code, own.text) == (whole.status_code, whole.text)
    assert own.status_code == 200 or "job 'lenet' is not listed" in own.text
    assert "tenor" not in own.text
    missing = ask(kept_app, key, token(job="mine"), "mine")
    assert (missing.status_code, "lenet" in missing.text) == (404, False)


def test_list_of_jobs_has_ones_own_alone(either_app: FastAPI) -> None:
    def names(job: str) -> list[str]:
        return [each["job"] for each in ask(either_app, "GET /api/v1/jobs", token(job=job)).json()]

    assert (names("lenet"), names("mine"), names(ALL_JOBS)) == (["lenet"], [], ["lenet", "tenor"])


@pytest.mark.parametrize("query", ["", "?job=lenet"])
def test_stream_tells_of_ones_own_job_alone(app: FastAPI, query: str) -> None:
    told = ask(app, f"GET /api/v1/events{query}", token(job="lenet")).text
    assert '"job":"lenet"' in told
    assert "tenor" not in told


@pytest.mark.parametrize("query", ["job=tenor", "job=lenet&job=tenor", "job="])
def test_stream_of_another_job_is_not_taken_for_ones_own(app: FastAPI, query: str) -> None:
    assert ask(app, f"GET /api/v1/events?{query}", token(job="lenet")).status_code == 404


def test_stream_of_all_jobs_is_for_those_who_see_all(app: FastAPI) -> None:
    assert '"job":"tenor"' in ask(app, "GET /api/v1/events", token()).text


def test_metrics_are_about_all_jobs(app: FastAPI) -> None:
    refused = ask(app, "GET /metrics", token(Role.ADMIN, job="lenet"))
    assert refused.status_code == 403
    assert "use one for all jobs" in refused.json()["detail"]


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/static/index.html", "/static/../app.py", "/api/v1/jobs/", "/docs/", "/static/%2e%2e/"],
)
def test_what_is_not_there_is_no_secret_but_told_to_callers_alone(app: FastAPI, path: str) -> None:
    assert Browser(app).get(path).status_code == 401
    assert ask(app, f"GET {path}", token()).status_code == 404


def test_token_in_an_address_is_not_read(app: FastAPI) -> None:
    for name in ("token", "access_token", "authorization"):
        assert Browser(app).get(f"/api/v1/jobs?{name}={token()}").status_code == 401
    response = Browser(app).get(f"/?token={token()}")
    assert (response.status_code, response.headers["location"]) == (303, "/login")


def test_without_token_keys_everything_is_open_and_there_is_no_login() -> None:
    for key in KEYS:
        if key.startswith("GET") and key != "GET /login":
            assert ask(APP, key).status_code in (200, 503), key
    assert "data-login" not in ask(APP, "GET /").text
    for key in ("GET /login", "POST /login", "POST /logout"):
        response = ask(APP, key)
        assert (response.status_code, response.headers["location"]) == (303, "/")
        assert "set-cookie" not in response.headers


def test_readiness_says_why_only_where_everyone_may_know(app: FastAPI) -> None:
    store = filled()
    store.set_trouble("nobody at 10.0.0.5:7070")
    assert "10.0.0.5" in ask(create_app(store), "GET /readyz").text
    response = ask(app, "GET /readyz")
    assert (response.status_code, "log" in response.json()["status"]) == (503, True)
    assert "not connected yet" not in response.text


# --- logging in and out ---------------------------------------------------------------------------------


def test_cookie_cannot_be_read_or_sent_by_other_sites(app: FastAPI) -> None:
    response = Browser(app).ask("POST", "/login", f"token={token()}", **OURS)
    value, *flags = response.headers["set-cookie"].split("; ")
    assert len(value) >= len(COOKIE) + 1 + 43  # 32 bytes
    assert flags == ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict", "Secure"]
    at_home = Browser(app).ask("POST", "/login", f"token={token()}", host="localhost:8070", **OURS)
    assert "Secure" not in at_home.headers["set-cookie"]


def test_logging_out_ends_the_session(app: FastAPI) -> None:
    cookie = session(app, token())
    response = Browser(app).ask("POST", "/logout", cookie=cookie, **OURS)
    assert response.headers["location"] == "/login"
    assert f"{COOKIE}=; Path=/; Max-Age=0" in response.headers["set-cookie"]
    assert not is_let_in(ask(app, "GET /api/v1/jobs", cookie=cookie))


class Later:
    """A clock that stands still, some seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._now = time.time() + seconds

    def time(self) -> float:
        return self._now


def test_session_ends_with_its_token(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = session(app, token(seconds=60.0))
    monkeypatch.setattr(tokens, "time", Later(110.0))  # the clocks of two machines may differ by a minute
    assert is_let_in(ask(app, "GET /api/v1/jobs", cookie=cookie))
    monkeypatch.setattr(tokens, "time", Later(130.0))
    assert "the join token ended" in ask(app, "GET /api/v1/jobs", cookie=cookie).json()["detail"]


def test_session_of_one_job_sees_one(app: FastAPI) -> None:
    cookie = session(app, token(job="lenet"))
    assert [each["job"] for each in ask(app, "GET /api/v1/jobs", cookie=cookie).json()] == ["lenet"]


def test_sessions_end_after_half_a_day_and_are_no_more_than_a_thousand() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    numbers = [sessions.open(f"token {index}") for index in range(SESSIONS_MAX + 1)]
    assert len(set(numbers)) == len(numbers)
    assert (sessions.token(numbers[0]), sessions.token(numbers[1])) == (None, "token 1")
    now[0] = SESSION_SECONDS - 1.0
    assert sessions.token(numbers[-1]) == f"token {SESSIONS_MAX}"
    now[0] = SESSION_SECONDS
    assert sessions.token(numbers[-1]) is None


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "referer": "https://dashboard/login"},
        {"sec_fetch_site": "cross-site", "origin": "http://dashboard"},
    ],
)
def test_forms_of_other_sites_change_nothing(app: FastAPI, path: str, headers: dict[str, str]) -> None:
    cookie = session(app, token())
    response = Browser(app).ask("POST", path, f"token={token()}", cookie=cookie, **headers)
    assert response.status_code == 403
    assert "set-cookie" not in response.headers
    assert is_let_in(ask(app, "GET /api/v1/jobs", cookie=cookie))


def test_browser_that_only_says_its_origin_may_log_in(app: FastAPI) -> None:
    response = Browser(app).ask("POST", "/login", f"token={token()}", origin="https://dashboard")
    assert response.status_code == 303


@pytest.mark.parametrize(
    ("form", "status", "told"),
    [
        ("", 401, "is none of ours"),
        ("token=", 401, "is none of ours"),
        ("token=a&token=b", 401, "is none of ours"),
        ("a=1&b=2&c=3&d=4&e=5", 401, "is none of ours"),
        ("token=%FF%FE<script>", 401, "is none of ours"),
        ("\xff", 401, "is none of ours"),
        (f"token={'a' * 500}", 401, "none of this server"),
        (f"token={'a' * 9_000}", 413, "At most 8,192"),
    ],
)
def test_form_that_holds_no_token_of_ours_is_refused(app: FastAPI, form: str, status: int, told: str) -> None:
    response = Browser(app).ask("POST", "/login", form, **OURS)
    assert response.status_code == status
    assert told in response.text
    assert "<script>" not in response.text
    assert "set-cookie" not in response.headers


def test_token_of_no_reader_is_refused_at_the_login(app: FastAPI) -> None:
    response = Browser(app).ask("POST", "/login", f"token={token(Role.SHARD)}", **OURS)
    assert (response.status_code, "that of a shard" in response.text) == (403, True)


def test_login_page_needs_nothing_inline_and_nothing_from_elsewhere(app: FastAPI) -> None:
    page = Browser(app).get("/login").text
    assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=|//", page)
    for path in re.findall(r'href="([^"]+)"', page):
        assert Browser(app).get(path).status_code == 200


def test_no_token_is_told_or_logged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, ended = token(), token(seconds=-120.0)
    cookie = session(app, good)
    answers = [
        Browser(app).ask("POST", "/login", f"token={ended}", **OURS),
        Browser(app).ask("POST", "/login", f"token={good}x", **OURS),
        Browser(app).get(f"/nowhere?token={good}"),
        *(ask(app, key, ended) for key in KEYS),
        *(ask(app, key, good) for key in KEYS),
        *(ask(app, key, cookie=cookie) for key in GUARDED if key != "POST /logout"),
    ]
    logged = [each.getMessage() for each in caplog.records if each.name.startswith(("sheepfold", "uvicorn"))]
    told = "".join(logged) + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    for secret in (good, ended, cookie.partition("=")[2]):
        assert secret not in told
    assert good not in repr(Sessions().__dict__)


# --- names of this server -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8070", "127.0.0.1:8070", "[::1]:8070", "dashboard:80", "Dashboard."),
        *("train.example", "train.example:443"),
    ],
)
def test_names_of_ours_are_answered(host: str) -> None:
    named = create_app(filled(), Access(hosts=("Train.example",)))
    assert Browser(named).ask("GET", "/api/v1/jobs", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.9",
            "evil.example:8070",
        ),
        *("localhost@evil.example", "localhost:8070:80", "", "train.example.evil", "localhost,evil"),
    ],
)
def test_other_names_are_refused_but_for_health(host: str) -> None:
    named = create_app(filled(), Access(hosts=("train.example",)))
    for path in ("/api/v1/jobs", "/", "/metrics", "/login", "/nowhere"):
        response = Browser(named).ask("GET", path, host=host)
        assert response.status_code == 421
        assert "--host NAME" in response.json()["detail"]
    assert Browser(named).ask("GET", "/healthz", host=host).status_code == 200
    assert Browser(named).ask("GET", "/readyz", host=host).status_code == 503


# --- what every answer has, and what a failure tells ----------------------------------------------------


def has_headers(response: httpx.Response) -> None:
    assert {name: response.headers.get_list(name) for name in HEADERS} == {k: [v] for k, v in HEADERS.items()}


@pytest.mark.parametrize("key", KEYS)
def test_headers_are_on_every_answer(app: FastAPI, key: str) -> None:
    for response in (ask(app, key), ask(app, key, token()), ask(app, key, token(), "absent"), ask(APP, key)):
        has_headers(response)


def test_headers_are_on_every_kind_of_refusal(app: FastAPI) -> None:
    browser = Browser(app, {"authorization": f"Bearer {token()}"})
    sized = Browser(WithHeaders(Sizes(app, LIMITS)))
    found = {
        404: browser.get("/nowhere"),
        405: Browser(APP).ask("DELETE", "/api/v1/jobs"),
        413: sized.ask("POST", "/login", "x" * 9_000),
        421: browser.ask("GET", "/", host="evil.example"),
        422: browser.get("/api/v1/jobs/lenet/steps?limit=x"),
        431: sized.ask("GET", "/", x="y" * LIMITS.header_bytes),
    }
    for status, response in found.items():
        assert response.status_code == status
        has_headers(response)


@pytest.mark.parametrize("named", [False, True])
def test_failure_is_a_number_to_the_caller_and_a_traceback_in_the_log(
    named: bool, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    """The history is closed under the API's feet: SQLite then raises, and says of which file."""
    store = filled()
    store.history.close()
    broken = create_app(store, access if named else None)
    response = ask(broken, "GET /api/v1/jobs/lenet/steps", token() if named else "")
    assert response.status_code == 500
    has_headers(response)
    told = re.fullmatch(
        r"the dashboard failed; its log says why under incident ([0-9a-f]{12})", response.json()["detail"]
    )
    assert told is not None
    assert not re.search(r"sqlite|Traceback|\.py|/", response.text, re.IGNORECASE)
    record = next(each for each in caplog.records if told[1] in each.getMessage())
    assert record.exc_info is not None
    assert "sqlite3" in (record.exc_text or str(record.exc_info))


def test_description_of_the_api_asks_for_the_same_login(app: FastAPI) -> None:
    for path in ("/docs", "/openapi.json"):
        assert not is_let_in(ask(app, f"GET {path}"))
        assert ask(app, f"GET {path}", token()).status_code == 200


def test_stream_ends_in_time_and_so_asks_again_who_listens(access: Access) -> None:
    short = create_app(Store(), access, replace(LIMITS, answer_seconds=1.0))
    assert ask(short, "GET /api/v1/events", token()).status_code == 200


def test_key_that_is_taken_away_ends_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sheepfold_server.shell.security.LOOK_SECONDS", 0.0)
    file = tmp_path / "token.pub"
    file.write_bytes(public_pem(KEY.public_key()))
    app = create_app(filled(), Access(HttpCallers(file).caller))
    cookie = session(app, token())
    assert is_let_in(ask(app, "GET /api/v1/jobs", cookie=cookie))
    file.write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))
    assert not is_let_in(ask(app, "GET /api/v1/jobs", cookie=cookie))
