// A stateful GitHub API on a free loopback port: npm `emulate`.
//
// Reads one JSON document from the environment variable SERVER_CONFIG:
//   baseUrl   the URL that clients see it under, for links in its answers
//   seed      users, repositories and tokens in the emulator's own form
// Prints one line `{"ready": {"url": ...}}` and ends when its standard input does.
import net from 'node:net';
import { once } from 'node:events';
import { createEmulator } from 'emulate';

const config = JSON.parse(process.env.SERVER_CONFIG ?? '{}');

// The emulator wants to know its port beforehand.
const probe = net.createServer().listen(0, '127.0.0.1');
await once(probe, 'listening');
const { port } = probe.address();
probe.close();
await once(probe, 'close');

await createEmulator({ service: 'github', port, baseUrl: config.baseUrl, seed: config.seed });
console.log(JSON.stringify({ ready: { url: `http://127.0.0.1:${port}` } }));
process.stdin.on('end', () => process.exit(0)).resume();
