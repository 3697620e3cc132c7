// What people do with dockerode, against the engine that the environment names.
'use strict';
const assert = require('node:assert');
const { PassThrough } = require('node:stream');
const Docker = require('dockerode');

const docker = new Docker();

function collector() {
  const stream = new PassThrough();
  let text = '';
  stream.on('data', (chunk) => { text += chunk; });
  return { stream, text: () => text };
}

function ended(stream) {
  return new Promise((resolve, reject) => stream.on('end', resolve).on('close', resolve).on('error', reject));
}

async function pull(image) {
  const stream = await docker.pull(image);
  return new Promise((resolve, reject) => docker.modem.followProgress(stream, (err, all) => (err ? reject(err) : resolve(all))));
}

async function main() {
  assert.strictEqual((await docker.ping()).toString(), 'OK');
  assert((await pull('busybox:latest')).some((step) => /^Status: /.test(step.status)));

  const events = await docker.getEvents({ filters: { event: ['die'], label: ['e2e=dockerode'] } });
  let told = '';
  events.on('data', (chunk) => { told += chunk; });

  const out = collector();
  const [result, container] = await docker.run('busybox', ['sh', '-c', 'echo plop!; exit 5'], out.stream, { Labels: { e2e: 'dockerode' } });
  await container.remove();
  assert.strictEqual(result.StatusCode, 5);
  assert.strictEqual(out.text().trim(), 'plop!');

  const kept = await docker.createContainer({ Image: 'busybox', Cmd: ['sleep', '600'], Labels: { e2e: 'dockerode' } });
  try {
    await kept.start();
    // The connection is hijacked, its input ends, and the output comes after that.
    const exec = await kept.exec({ Cmd: ['wc', '-c'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
    const stream = await exec.start({ hijack: true, stdin: true });
    const counted = collector();
    docker.modem.demuxStream(stream, counted.stream, process.stderr);
    const end = ended(stream);
    stream.end(Buffer.alloc(1 << 20));
    await end;
    assert.strictEqual(counted.text().trim(), String(1 << 20));
  } finally {
    await kept.remove({ force: true });
  }

  while (!told.includes('"5"')) await new Promise((resolve) => setTimeout(resolve, 50));
  events.destroy();
  console.log('dockerode', require('dockerode/package.json').version, 'on', process.version, 'passed');
}

main().catch((err) => { console.error(err); process.exit(1); });
