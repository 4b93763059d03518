// The state of a whole server, kept and brought back in milliseconds: its memory, its files and what is open of them.
//
// Between two messages nothing of the session is anywhere else. A new instance from an archive of the data directory
// takes a second.

/** Cells of memory are compared and kept by pages of this size. */
const PAGE = 65_536

function files(root) {
  const found = []
  const visit = (node) => {
    found.push(node)
    if (isFolder(node)) for (const child of Object.values(node.contents)) visit(child)
  }
  visit(root)
  return found
}

const isFolder = (node) => (node.mode & 0o170000) === 0o040000 && node.contents
const isFile = (node) => (node.mode & 0o170000) === 0o100000

function copied(node) {
  if (isFolder(node)) return { ...node.contents }
  return isFile(node) && node.contents ? node.contents.slice(0, node.usedBytes) : node.contents
}

/** Keep the state of *module*. */
export function keep({ HEAPU8, FS }) {
  const pages = new Map()
  for (let at = 0; at < HEAPU8.length; at += PAGE) {
    const page = Buffer.from(HEAPU8.buffer, at, PAGE)
    if (!page.equals(EMPTY)) pages.set(at, Uint8Array.from(page))
  }
  return {
    pages,
    nodes: files(FS.root).map((node) => ({
      node,
      fields: { name: node.name, parent: node.parent, mode: node.mode, usedBytes: node.usedBytes, mtime: node.mtime },
      contents: copied(node),
    })),
    streams: FS.streams.map((stream) => stream && { stream, flags: stream.flags, position: stream.position }),
  }
}

const EMPTY = Buffer.alloc(PAGE)

/** Bring *module* back to a state that was kept of it. */
export function restore({ HEAPU8, FS }, state) {
  for (let at = 0; at < HEAPU8.length; at += PAGE) {
    const page = state.pages.get(at)
    if (page) HEAPU8.set(page, at)
    else HEAPU8.fill(0, at, at + PAGE)
  }
  for (const node of files(FS.root)) if (node !== FS.root) FS.hashRemoveNode(node)
  for (const { node, fields, contents } of state.nodes) {
    Object.assign(node, fields)
    node.contents = isFolder(node) ? { ...contents } : isFile(node) && contents ? contents.slice() : contents
    if (node !== FS.root) FS.hashAddNode(node)
  }
  FS.streams.length = 0
  state.streams.forEach((saved, fd) => {
    if (!saved) return
    FS.streams[fd] = saved.stream
    // One that was closed since has lost its number.
    saved.stream.fd = fd
    saved.stream.flags = saved.flags
    saved.stream.position = saved.position
  })
}
