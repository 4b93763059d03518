// The network side: several clients in front of the one session.
//
// Clients take turns. A turn begins with a client's first message and ends when the session is idle again, outside a
// transaction; until then the others wait. What a session keeps beyond a transaction is kept apart here: prepared
// statements get names of their own, settings are put away and brought back when another client's turn begins, and
// advisory locks are released with the client that took them. What cannot be had is a lock that refuses: all of them
// belong to one session.

import { createServer } from 'node:net'
import { complaint, message, messages } from './backend.mjs'

/** How long a client waits for another one's transaction: in tests nothing takes this long but a deadlock. */
const PATIENCE_MS = 20_000

const PROTOCOL_3 = 196_608
const CANCEL_REQUEST = 80_877_102
const ENCRYPTION_REQUESTS = [80_877_103, 80_877_104]
/** Settings that a server tells its clients of, with each change. */
const REPORTED = [
  'server_version',
  'server_encoding',
  'client_encoding',
  'application_name',
  'DateStyle',
  'IntervalStyle',
  'TimeZone',
  'integer_datetimes',
  'standard_conforming_strings',
  'default_transaction_read_only',
  'in_hot_standby',
  'is_superuser',
  'session_authorization',
]
const CHANGES_SETTINGS = /\b(set|reset|discard|set_config)\b/i
const TAKES_LOCKS = /advisory_(lock|unlock)/i
const COPIES_IN = /^\s*copy\b.*\bfrom\s+stdin\b/is
const FORGETS_ALL = /^\s*deallocate\s+all\s*;?\s*$/i

const quoted = (text) => `'${text.replaceAll("'", "''")}'`
const text = (bytes, from = 0) => bytes.toString('utf8', from, bytes.indexOf(0, from))

export class Front {
  #backend
  #server
  #clients = new Set()
  /** Clients with something to run, in the order in which they came. */
  #waiting = []
  /** Whose turn it is, and whose settings the session has. */
  #current = null
  #last = null
  #numbered = 0
  /** What is reported of a session that has changed nothing. */
  #defaults = new Map()

  constructor(backend) {
    this.#backend = backend
  }

  /** Listen on a free port of the loopback interface and return it. */
  async listen() {
    this.#defaults = this.#settings()
    this.#server = createServer((socket) => new Client(this, socket, ++this.#numbered))
    await new Promise((done, failed) => this.#server.once('error', failed).listen(0, '127.0.0.1', done))
    return this.#server.address().port
  }

  /** Cut every client off; the session's state is about to be replaced. */
  cutOff() {
    for (const client of this.#clients) client.cutOff()
    this.#clients.clear()
    this.#waiting = []
    this.#current = this.#last = null
  }

  /** Take *client* in and return the settings that it is to be told of; they are those that it asked for, if any. */
  add(client) {
    this.#clients.add(client)
    client.reported = new Map([...this.#defaults, ...client.settings.filter(([name]) => this.#defaults.has(name))])
    return client.reported
  }

  /** Run what *client* has sent, now or when it is its turn. */
  serve(client) {
    if (this.#current === null && !this.#begin(client)) return
    if (this.#current === client) this.#run(client)
    else if (!this.#waiting.includes(client)) {
      this.#waiting.push(client)
      client.patience = setTimeout(() => {
        client.refuse(
          '53300',
          'all connections share one session here, and another one has had a transaction open for ' +
            `${PATIENCE_MS / 1000} s: end it first, or run this test on a server of your own`,
        )
      }, PATIENCE_MS)
    }
  }

  /** Clean up behind a client that has left. */
  remove(client) {
    if (!this.#clients.delete(client)) return
    this.#waiting = this.#waiting.filter((other) => other !== client)
    clearTimeout(client.patience)
    if (this.#current === client) {
      this.#backend.run(message('S'))
      this.#backend.query('ROLLBACK')
      this.#settle(client)
    }
    // In the middle of another one's transaction nothing can be cleaned up, and nothing needs to be.
    const clean = () => {
      if (this.#clients.size === 0) this.#backend.query('DISCARD ALL')
      else {
        for (const name of client.statements) this.#backend.run(message('C', Buffer.from('S'), name))
        this.#backend.run(message('S'))
        for (const lock of client.locks) this.#backend.query(`SELECT pg_advisory_unlock${lock}`)
        if (this.#last === client) this.#backend.query('RESET ALL')
      }
      if (this.#last === client || this.#clients.size === 0) this.#last = null
    }
    if (this.#current === null || this.#current === client) {
      clean()
      this.#end()
    } else this.#current.afterwards.push(clean)
  }

  #begin(client) {
    this.#current = client
    if (this.#last === client) return true
    if (this.#last?.changed) {
      this.#last.settings = this.#backend.query("SELECT name, setting FROM pg_settings WHERE source = 'session'")
      this.#last.changed = false
    }
    if (this.#last?.settings.length) this.#backend.query('RESET ALL')
    this.#last = client
    if (client.settings.length) {
      const calls = client.settings.map(([name, value]) => `set_config(${quoted(name)}, ${quoted(value)}, false)`)
      try {
        this.#backend.query(`SELECT ${calls.join(', ')}`)
      } catch (error) {
        // What its address asks for is looked at here: before, the session may have been in a transaction.
        client.refuse('42704', error.message)
        return false
      }
    }
    client.send(Buffer.concat(this.#report(client)))
    return true
  }

  #run(client) {
    const batch = client.take()
    if (batch.length === 0) return
    const answer = this.#backend.run(batch)
    let idle = false
    const parts = []
    for (const { type, whole, body } of messages(answer)) {
      // The client has had this one, before it sent its rows.
      if (type === 'G') continue
      idle = type === 'Z' && body[0] === 'I'.charCodeAt(0)
      if (type === 'Z' && idle && client.touchedSettings) parts.push(...this.#report(client))
      parts.push(whole)
    }
    client.send(Buffer.concat(parts))
    if (idle && client.synced) {
      this.#settle(client)
      this.#end()
    }
  }

  /** Note what a turn has left behind in the session. */
  #settle(client) {
    if (client.touchedSettings) client.changed = true
    client.touchedSettings = false
    if (client.touchedLocks) {
      const held = this.#backend
        .query(
          "SELECT CASE WHEN objsubid = 1 THEN format('(%s)', classid::int8 << 32 | objid::int8)" +
            " ELSE format('(%s, %s)', classid::int8::bit(32)::int4, objid::int8::bit(32)::int4) END" +
            " FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'",
        )
        .map(([lock]) => lock)
      const others = new Set([...this.#clients].filter((other) => other !== client).flatMap((other) => other.locks))
      client.locks = held.filter((lock) => !others.has(lock))
    }
    client.touchedLocks = false
  }

  #end() {
    for (const clean of this.#current?.afterwards.splice(0) ?? []) clean()
    this.#current = null
    const next = this.#waiting.shift()
    if (next) {
      clearTimeout(next.patience)
      // Later, so that a long queue is no deep stack.
      setImmediate(() => this.serve(next))
    }
  }

  #settings() {
    const columns = REPORTED.map((name) => `current_setting(${quoted(name)})`)
    const [values] = this.#backend.query(`SELECT ${columns.join(', ')}`)
    return new Map(REPORTED.map((name, at) => [name, values[at]]))
  }

  #report(client) {
    const now = this.#settings()
    const changed = [...now].filter(([name, value]) => client.reported.get(name) !== value)
    client.reported = now
    return changed.map(([name, value]) => message('S', name, value))
  }
}

/** Return the settings that the first packet of a client asks for, by name or by `-c` in its options. */
function asked(packet) {
  const words = packet.toString('utf8', 8).split('\0')
  const settings = []
  for (let at = 0; at + 1 < words.length && words[at]; at += 2) {
    const [name, value] = words.slice(at, at + 2)
    if (name === 'options') {
      for (const [, key, given] of value.matchAll(/(?:-c\s*|--)([\w.]+)=((?:\\.|[^\s\\])*)/g))
        settings.push([key, given.replace(/\\(.)/g, '$1')])
    } else if (!['user', 'database', 'replication'].includes(name) && !name.startsWith('_pq_')) settings.push([name, value])
  }
  return settings
}

class Client {
  /** Names of its statements in the session, the settings that it made and the locks that it holds. */
  statements = new Set()
  settings = []
  locks = []
  afterwards = []
  reported = new Map()
  touchedSettings = false
  touchedLocks = false
  changed = false
  /** Whether the last message that was run ends a sequence of messages. */
  synced = true
  patience = undefined

  #front
  #socket
  #number
  #started = false
  /** Bytes of a message that is not whole yet. */
  #rest = Buffer.alloc(0)
  #batch = []
  /** The COPY whose rows are coming in; it runs when it has them all. */
  #copy = null

  constructor(front, socket, number) {
    this.#front = front
    this.#socket = socket
    this.#number = number
    socket.setNoDelay(true)
    socket.on('data', (data) => this.#receive(data))
    socket.on('error', () => socket.destroy())
    socket.on('close', () => front.remove(this))
  }

  send(bytes) {
    if (bytes.length > 0 && this.#socket.writable) this.#socket.write(bytes)
  }

  refuse(sqlstate, reason) {
    this.send(complaint('FATAL', sqlstate, reason))
    this.#socket.end()
    this.#front.remove(this)
  }

  cutOff() {
    clearTimeout(this.patience)
    this.#socket.destroy()
  }

  /** Hand over the messages to run; they are the session's then. */
  take() {
    const batch = Buffer.concat(this.#batch)
    this.#batch = []
    return batch
  }

  #receive(data) {
    this.#rest = this.#rest.length ? Buffer.concat([this.#rest, data]) : data
    while (!this.#started) if (!this.#start()) return
    let used = 0
    for (const { type, whole, body } of messages(this.#rest)) {
      used += whole.length
      this.#accept(type, whole, body)
    }
    this.#rest = this.#rest.subarray(used)
    if (this.#batch.length) this.#front.serve(this)
  }

  /** Answer a message of the time before the first statement; tell whether there was a whole one. */
  #start() {
    if (this.#rest.length < 8 || this.#rest.length < this.#rest.readInt32BE(0)) return false
    const packet = this.#rest.subarray(0, this.#rest.readInt32BE(0))
    const code = packet.readInt32BE(4)
    this.#rest = this.#rest.subarray(packet.length)
    if (ENCRYPTION_REQUESTS.includes(code)) this.send(Buffer.from('N'))
    else if (code === CANCEL_REQUEST) this.#socket.destroy()
    else if (code >> 16 !== PROTOCOL_3 >> 16) this.refuse('0A000', `protocol ${code >> 16} is not served, expected 3`)
    else {
      this.#started = true
      this.settings = asked(packet)
      const number = Buffer.alloc(8)
      number.writeInt32BE(this.#number)
      const settings = [...this.#front.add(this)].map(([name, value]) => message('S', name, value))
      const trusted = message('R', Buffer.alloc(4))
      this.send(Buffer.concat([trusted, ...settings, message('K', number), message('Z', Buffer.from('I'))]))
    }
    return !this.#socket.destroyed
  }

  #accept(type, whole, body) {
    if (this.#copy !== null) {
      this.#copy.push(whole)
      if (type === 'c' || type === 'f') {
        this.#batch.push(...this.#copy)
        this.synced = true
        this.#copy = null
      }
      return
    }
    if (type === 'X') {
      this.#socket.end()
      return
    }
    // What is left of a COPY that had failed before its last row.
    if ('dcf'.includes(type)) return
    // A pipeline asks for its answers once more behind its end, when it has them: that begins no turn.
    if (type === 'H' && this.synced) return
    this.synced = type === 'Q' || type === 'S'
    const sql = type === 'Q' ? text(body) : type === 'P' ? text(body, body.indexOf(0) + 1) : ''
    this.touchedSettings ||= CHANGES_SETTINGS.test(sql)
    this.touchedLocks ||= TAKES_LOCKS.test(sql)
    if (COPIES_IN.test(sql)) {
      // The session cannot wait for rows: they are collected first.
      const binary = Number(/\bbinary\b/i.test(sql))
      if (type === 'Q') {
        this.#copy = [whole]
        this.send(message('G', Buffer.from([binary, 0, 0])))
      } else this.refuse('0A000', 'COPY FROM STDIN in the extended protocol is not served, expected a simple query')
      return
    }
    this.#batch.push(FORGETS_ALL.test(sql) ? this.#forget(type) : this.#renamed(type, whole, body))
  }

  #forget(type) {
    // One statement: its client expects one answer.
    const each = [...this.statements].map((name) => `EXECUTE 'DEALLOCATE "${name}"';`).join(' ')
    this.statements.clear()
    const sql = `DO $$ BEGIN ${each || 'NULL;'} END $$`
    return type === 'Q' ? message('Q', sql) : message('P', '', sql, Buffer.alloc(2))
  }

  #renamed(type, whole, body) {
    let at = 0
    if (type === 'B') at = body.indexOf(0) + 1
    else if ((type === 'D' || type === 'C') && body[0] === 'S'.charCodeAt(0)) at = 1
    else if (type !== 'P') return whole
    const name = text(body, at)
    if (name === '') return whole
    const mine = `${this.#number}/${name}`
    if (type === 'P') this.statements.add(mine)
    if (type === 'C') this.statements.delete(mine)
    return message(type, body.subarray(0, at), mine, body.subarray(body.indexOf(0, at) + 1))
  }
}
