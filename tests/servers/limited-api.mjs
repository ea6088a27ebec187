// An API with a quota, on a free loopback port: so many requests, and then none for some seconds.
//
// Reads one JSON document from the environment variable SERVER_CONFIG:
//   quota     how many requests are answered before the server refuses them
//   seconds   for how long it refuses them, with status 429 and `Retry-After`; then the quota is whole again
// `/arrivals` gives, and does not count, what has arrived: [{path, refused}].
// Prints one line `{"ready": {"url": ...}}` and ends when its standard input does.
import http from 'node:http';

const { quota, seconds } = JSON.parse(process.env.SERVER_CONFIG ?? '{}');
const arrivals = [];
let left = quota;
let silentUntil = null;

const server = http.createServer((request, response) => {
  if (request.url === '/arrivals') {
    response.end(JSON.stringify(arrivals));
    return;
  }
  const now = Date.now();
  if (silentUntil !== null && now >= silentUntil) {
    silentUntil = null;
    left = quota;
  }
  const refused = left === 0;
  arrivals.push({ path: request.url, refused });
  if (refused) {
    silentUntil ??= now + seconds * 1000;
    response.writeHead(429, { 'retry-after': seconds });
  } else {
    left -= 1;
  }
  // So that several are under way at once.
  setTimeout(() => response.end(refused ? 'slow down' : request.url), 20);
});
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ ready: { url: `http://127.0.0.1:${server.address().port}` } }));
});
process.stdin.on('end', () => process.exit(0)).resume();
