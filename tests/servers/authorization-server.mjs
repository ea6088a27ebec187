// An authorization server on a free loopback port: npm `oidc-provider` with its own sign-in pages.
//
// Reads one JSON document from the environment variable SERVER_CONFIG:
//   clients          oidc-provider client metadata (OpenID Connect Dynamic Client Registration 1.0, section 2)
//   scopes           further scopes that it knows, beside `openid` and `offline_access`
//   accessTokenTtl   seconds an access token lives (default 3600)
//   rotate           whether each refresh token is good for one use (default true)
// Prints one line `{"ready": {"issuer": ...}}` and ends when its standard input does.
import http from 'node:http';
import { once } from 'node:events';
import Provider, { interactionPolicy } from 'oidc-provider';

const config = JSON.parse(process.env.SERVER_CONFIG ?? '{}');
const server = http.createServer();
server.listen(config.port ?? 0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: config.clients ?? [],
  scopes: ['openid', 'offline_access', ...(config.scopes ?? [])],
  claims: { openid: ['sub'], profile: ['name'] },
  ttl: {
    AccessToken: config.accessTokenTtl ?? 3600,
    ClientCredentials: config.accessTokenTtl ?? 3600,
    AuthorizationCode: 60,
    IdToken: 3600,
    RefreshToken: 86400,
    Interaction: 600,
    Session: 86400,
    Grant: 86400,
  },
  rotateRefreshToken: config.rotate ?? true,
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: async () => true },
    revocation: { enabled: true, allowedPolicy: async (_ctx, client, token) => token.clientId === client.clientId },
    userinfo: { enabled: true },
    rpInitiatedLogout: { enabled: false },
  },
  interactions: { policy: interactionPolicy.base() },
  findAccount: async (_ctx, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, name: id }),
  }),
  cookies: { keys: ['test-cookie-key'] },
  renderError: async (ctx, out) => {
    ctx.type = 'json';
    ctx.body = out;
  },
});

// What the token endpoint was asked: kinds and counts.
const seen = { authorization_code: 0, refresh_token: 0, client_credentials: 0, failed: 0 };
// What it was sent and gave out that authenticates, for tests that look for it elsewhere.
const secrets = [];
provider.on('grant.success', (ctx) => {
  seen[ctx.oidc.params.grant_type] += 1;
  const found = { ...ctx.oidc.params, ...ctx.body };
  for (const kind of ['code', 'code_verifier', 'access_token', 'refresh_token', 'id_token']) {
    if (found[kind]) secrets.push([kind, found[kind]]);
  }
});
provider.on('grant.error', () => { seen.failed += 1; });
const revoked = [];
provider.on('refresh_token.destroyed', (token) => revoked.push(token.kind));
provider.on('grant.revoked', () => revoked.push('Grant'));

const handle = provider.callback();
server.on('request', (request, response) => {
  if (request.url === '/test/seen') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ ...seen, revoked }));
    return;
  }
  if (request.url === '/test/secrets') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(secrets));
    return;
  }
  handle(request, response);
});

console.log(JSON.stringify({ ready: { issuer } }));
process.stdin.on('end', () => process.exit(0)).resume();
