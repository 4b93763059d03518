// A server for tests: TimescaleDB on a free port of the loopback interface.
//
// It is driven by lines on standard input, `keep NAME` and `restore NAME`, and answers each with one line of JSON on
// standard output; the first line tells the port. When standard input ends, so does the server, busy or not.

import { readSync } from 'node:fs'
import { Worker, isMainThread, parentPort } from 'node:worker_threads'

if (isMainThread) await serve()
else listen()

/** Read the commands in a thread of their own: statements keep the main one busy. */
function listen() {
  const buffer = Buffer.alloc(4096)
  let line = ''
  for (;;) {
    const length = readSync(0, buffer)
    if (length === 0) process.kill(process.pid, 'SIGKILL')
    line += buffer.toString('utf8', 0, length)
    const lines = line.split('\n')
    line = lines.pop()
    for (const command of lines) parentPort.postMessage(command)
  }
}

async function serve() {
  const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`)
  const commands = new Worker(new URL(import.meta.url), { stdin: false })
  process.on('uncaughtException', (error) => {
    // The trace may begin with a line of the compiled program, megabytes long.
    process.stderr.write(`${String(error?.stack ?? error).slice(-4000)}\n`)
    process.exit(70)
  })
  const { Backend } = await import('./backend.mjs')
  const { Front } = await import('./front.mjs')
  const { keep, restore } = await import('./snapshot.mjs')

  const backend = await Backend.start()
  backend.query('CREATE EXTENSION timescaledb')
  // Shared libraries that are loaded after a snapshot would not be there after its return.
  backend.query("CREATE TABLE loaded (ts timestamptz NOT NULL) WITH (tsdb.hypertable, tsdb.partition_column = 'ts')")
  backend.query('DO $$ BEGIN DROP TABLE loaded; END $$')
  backend.query('DISCARD ALL')
  const [[version]] = backend.query("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
  const front = new Front(backend)
  const states = new Map()

  commands.on('message', (line) => {
    const [command, name] = line.split(' ')
    if (command === 'keep') {
      front.cutOff()
      backend.query('ROLLBACK')
      backend.query('DISCARD ALL')
      states.set(name, keep(backend.module))
      say({ kept: name })
    } else if (command === 'restore' && states.has(name)) {
      front.cutOff()
      restore(backend.module, states.get(name))
      say({ restored: name })
    } else say({ error: `cannot do "${line}", expected keep or restore with one of ${[...states.keys()].join(', ')}` })
  })
  say({ port: await front.listen(), timescaledb: version })
}
