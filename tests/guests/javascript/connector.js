// The connector `github` of `plugins/github` in JavaScript, with two of its actions and ordinary `fetch`, and an
// action that sends whatever its input says, and one that uses `fetch` as people do.

const API = 'https://api.github.com';

class Failure extends Error {
  constructor(code, message, { status, retryable = false } = {}) {
    super(message);
    this.failure = { code, message, status, retryable, retryAfterMs: undefined };
  }
}

/** Calls the API; what it answers with a status of 400 and above is a failure of the action. */
async function call(url, options = {}) {
  const response = await fetch(url, {
    ...options,
    headers: { accept: 'application/vnd.github+json', 'x-github-api-version': '2022-11-28', ...options.headers },
  });
  if (!response.ok) {
    const { message } = await response.json().catch(() => ({}));
    const code = response.status === 404 ? 'not-found' : 'refused';
    throw new Failure(code, message ?? `GitHub answered ${response.status}`, {
      status: response.status,
      retryable: response.status >= 500,
    });
  }
  return response;
}

const issuesOf = ({ api = API, owner, repository }) =>
  `${api}/repos/${encodeURIComponent(owner)}/${encodeURIComponent(repository)}/issues`;

const issue = ({ number, title, body, state, labels, user, html_url }) => ({
  number,
  title,
  body: body ?? '',
  state,
  labels: labels.map((label) => label.name),
  author: user?.login ?? null,
  url: html_url,
});

/** The address of the next page (RFC 8288). */
const next = (response) => /<([^>]*)>;\s*rel="next"/.exec(response.headers.get('link') ?? '')?.[1];

const times = (count) => [...Array(count).keys()];

/** What people do with `fetch` and think nothing of. */
const habits = {
  async rounds(url, count) {
    let total = 0;
    for (const _ of times(count)) total += Object.keys(await (await fetch(url)).json()).length;
    return total;
  },

  async buffer(url) {
    return (await (await fetch(url)).arrayBuffer()).byteLength;
  },

  async stream(url) {
    const reader = (await fetch(url)).body.getReader();
    let total = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return total;
      total += value.length;
    }
  },

  async unread(url, count) {
    const statuses = [];
    for (const _ of times(count)) statuses.push((await fetch(url, { method: 'DELETE' })).status);
    return statuses.filter((status) => status === 200).length;
  },

  async cancelled(url, count) {
    const statuses = [];
    for (const _ of times(count)) {
      const response = await fetch(url);
      await response.body.cancel();
      statuses.push(response.status);
    }
    return statuses.filter((status) => status === 200).length;
  },

  async parallel(url, count) {
    const texts = await Promise.all(times(count).map(async () => (await fetch(url)).text()));
    return texts.length;
  },
};

const actions = {
  async 'list-issues'({ state = 'open', per_page = 100, limit = 100, ...input }) {
    const issues = [];
    let page = `${issuesOf(input)}?${new URLSearchParams({ state, per_page })}`;
    while (page && issues.length < limit) {
      const response = await call(page);
      const items = await response.json();
      issues.push(...items.filter((item) => !item.pull_request).map(issue));
      page = next(response);
    }
    return { issues: issues.slice(0, limit) };
  },

  async 'create-issue'({ title, body = '', ...input }) {
    const response = await call(issuesOf(input), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ title, body }),
    });
    return issue(await response.json());
  },

  async 'any-request'({ method = 'GET', url, headers = [], body }) {
    try {
      const response = await fetch(url, { method, headers, body });
      return { status: response.status, headers: [...response.headers], body: await response.text() };
    } catch (error) {
      return { status: 0, headers: [], body: '', error: String(error) };
    }
  },

  async habit({ habit, url, count = 1 }) {
    return { result: await habits[habit](url, count) };
  },
};

const actionsInterface = {
  async run({ action, input }) {
    const act = actions[action];
    if (!act) throw { tag: 'unknown-action', val: action };
    try {
      return JSON.stringify(await act(JSON.parse(input)));
    } catch (error) {
      // What is thrown is an error of the WIT; anything else would be a bare trap.
      throw error instanceof Failure ? { tag: 'failed', val: error.failure } : { tag: 'other', val: String(error) };
    }
  },
};

export { actionsInterface as actions };
