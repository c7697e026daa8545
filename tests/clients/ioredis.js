// ioredis as a client of the monitors: see ../tests/clients.rs for the arguments and for what is printed.
const Redis = require('ioredis');

const [key, password, dead, ...live] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function client(ports, more) {
  const sentinels = ports.map((port) => ({ host: '127.0.0.1', port: Number(port) }));
  const redis = new Redis({ sentinels, name: 'posts', sentinelPassword: password, ...more });
  redis.on('error', () => {}); // what matters fails with the command
  return redis;
}

async function refused(what, more) {
  const redis = client(live, { ...more, lazyConnect: true, sentinelRetryStrategy: () => null, retryStrategy: () => null });
  const said = await redis.connect().then(() => 'found', () => 'refused');
  console.log(`${what} ${said}`);
  redis.disconnect();
}

async function main() {
  await refused('unknown name', { name: 'unknown' });
  await refused('wrong password', { sentinelPassword: 'wrong' });
  const other = client([dead, live[1]]);
  console.log(`one endpoint down ${(await other.config('GET', 'port'))[1]}`);
  other.disconnect();

  // Without failoverDetector, as by default: an announcement that finds such a client connecting ends it for good.
  const primary = client(live);
  const replica = client(live, { role: 'slave' });
  console.log(`primary ${(await primary.config('GET', 'port'))[1]}`);
  console.log(`role of the replica ${(await replica.role())[0]}`);
  for (let n = 1; ; n++) {
    try {
      await primary.set(key, n);
      console.log(`wrote ${n}`);
    } catch (error) {
      console.log(`not written ${n} ${error.message}`);
    }
    if (n % 10 === 0) {
      await replica.get(key).then((read) => console.log(`read ${read}`), (error) => console.log(`not read ${error.message}`));
    }
    await sleep(5);
  }
}

main().catch((error) => {
  console.log(`ended ${error.stack}`);
  process.exit(1);
});
