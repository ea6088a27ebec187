"""The connector `github` of `plugins/github` in Python, with two of its actions and ordinary `urllib`, an action that
sends whatever its input says, and one that uses `urllib` as people do."""

import json
import re
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import wasi_urllib
from componentize_py_types import Err
from wit_world.exports.actions import ActionError_Failed, ActionError_Other, ActionError_UnknownAction, Failure

API = "https://api.github.com"

wasi_urllib.install()


def call(url, method="GET", body=None):
    """Calls the API; what it answers with a status of 400 and above is a failure of the action."""
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(body).encode()
    try:
        return urlopen(Request(url, data=body, headers=headers, method=method))
    except HTTPError as error:
        try:
            message = json.load(error)["message"]
        except (ValueError, KeyError, TypeError):
            message = f"GitHub answered {error.code}"
        code = "not-found" if error.code == 404 else "refused"
        raise Err(ActionError_Failed(Failure(code, message, error.code, error.code >= 500, None))) from error


def issues_of(input):
    owner, repository = quote(input["owner"], safe=""), quote(input["repository"], safe="")
    return f"{input.get('api', API)}/repos/{owner}/{repository}/issues"


def issue(item):
    return {
        "number": item["number"],
        "title": item["title"],
        "body": item["body"] or "",
        "state": item["state"],
        "labels": [label["name"] for label in item["labels"]],
        "author": (item["user"] or {}).get("login"),
        "url": item["html_url"],
    }


def next_page(response):
    """The address of the next page (RFC 8288)."""
    link = re.search(r'<([^>]*)>;\s*rel="next"', response.headers.get("link", ""))
    return link and link[1]


def list_issues(input):
    limit = input.get("limit", 100)
    issues = []
    query = urlencode({"state": input.get("state", "open"), "per_page": input.get("per_page", 100)})
    page = f"{issues_of(input)}?{query}"
    while page and len(issues) < limit:
        with call(page) as response:
            issues += [issue(item) for item in json.load(response) if "pull_request" not in item]
            page = next_page(response)
    return {"issues": issues[:limit]}


def create_issue(input):
    body = {"title": input["title"], "body": input.get("body", "")}
    with call(issues_of(input), "POST", body) as response:
        return issue(json.load(response))


def any_request(input):
    body = input.get("body")
    request = Request(
        input["url"],
        data=body.encode() if body is not None else None,
        headers=dict(input.get("headers", [])),
        method=input.get("method", "GET"),
    )
    try:
        with urlopen(request) as response:
            text = response.read().decode("utf-8", "replace")
            return {"status": response.status, "headers": list(response.headers.items()), "body": text}
    except (HTTPError, URLError, OSError, ValueError) as error:
        return {"status": 0, "headers": [], "body": "", "error": str(error)}


def status(url, count):
    return urlopen(url).status


def refusal(url, count):
    try:
        urlopen(url)
    except HTTPError as error:
        return error.code


def part(url, count):
    with urlopen(url) as response:
        return len(response.read(10))


def rounds(url, count):
    total = 0
    for _ in range(count):
        with urlopen(url) as response:
            total += len(json.load(response))
    return total


def impatience(url, count):
    try:
        urlopen(url, timeout=0.5)
    except URLError as error:
        return isinstance(error.reason, TimeoutError)


def form(url, count):
    return urlopen(Request(url, data=b"a=1")).reason


HABITS = {
    "status": status,
    "refusal": refusal,
    "part": part,
    "rounds": rounds,
    "impatience": impatience,
    "form": form,
}


def habit(input):
    """Does what people do with `urllib` and think nothing of."""
    return {"result": HABITS[input["habit"]](input["url"], input.get("count", 1))}


ACTIONS = {"list-issues": list_issues, "create-issue": create_issue, "any-request": any_request, "habit": habit}


class Actions:
    def run(self, invocation, connection):
        action = ACTIONS.get(invocation.action)
        if action is None:
            raise Err(ActionError_UnknownAction(invocation.action))
        try:
            return json.dumps(action(json.loads(invocation.input)))
        except Err:
            raise
        except Exception as error:
            # What is raised is an error of the WIT; anything else would be a bare trap.
            raise Err(ActionError_Other(f"{type(error).__name__}: {error}")) from error
