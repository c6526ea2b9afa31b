package core

import "forebay/broker/packet"

// output is what waits to be written to one connection: chunks from the pool, which go back as soon as they have
// left, so an idle connection holds none.
type output struct {
	chunks [][]byte // the last one is filled further; none is empty
	start  int      // how much of the first has left already
	size   int      // bytes waiting
	held   int      // bytes that the chunks take
	fresh  int      // bytes added since the last Flush
}

// chunkClasses are the sizes of chunks. A connection begins with a small one, so that 5,000 connections with one
// message each in the same round cost 5 MB and not 320.
var chunkClasses = [...]int{1 << 10, 8 << 10, chunkSize}

// chunkPool keeps chunks that are free. It belongs to a Core.
type chunkPool struct {
	free [len(chunkClasses)][][]byte
	used int // bytes of the chunks that are out
}

// pooledBytes bounds what the pool keeps of each class.
const pooledBytes = 4 << 20

// get returns an empty chunk for at least n bytes (n ≤ chunkSize), of a class above that of the chunk before it.
func (p *chunkPool) get(n, before int) []byte {
	class := 0
	for class < len(chunkClasses)-1 && (chunkClasses[class] < n || chunkClasses[class] <= before) {
		class++
	}
	p.used += chunkClasses[class]
	if free := p.free[class]; len(free) > 0 {
		chunk := free[len(free)-1]
		p.free[class] = free[:len(free)-1]
		return chunk
	}
	return make([]byte, 0, chunkClasses[class])
}

// put takes a chunk back.
func (p *chunkPool) put(chunk []byte) {
	p.used -= cap(chunk)
	for class, size := range chunkClasses {
		if size == cap(chunk) && len(p.free[class]) < pooledBytes/size {
			p.free[class] = append(p.free[class], chunk[:0])
		}
	}
}

// reserve returns the index of the last chunk after making sure that it has room for n ≤ chunkSize bytes.
func (conn *Conn) reserve(n int) int {
	out := &conn.out
	last := len(out.chunks) - 1
	if last >= 0 && cap(out.chunks[last])-len(out.chunks[last]) >= n {
		return last
	}
	before := 0
	if last >= 0 {
		before = cap(out.chunks[last])
	}
	chunk := conn.core.pool.get(n, before)
	out.chunks = append(out.chunks, chunk)
	out.held += cap(chunk)
	return last + 1
}

// added accounts for n bytes put into the last chunk.
func (conn *Conn) added(n int) {
	conn.out.size += n
	conn.out.fresh += n
	conn.core.touch(conn)
	// A connection whose socket is full does not get better by flushing more often.
	if conn.out.fresh >= chunkSize && conn.out.size-conn.out.fresh < chunkSize {
		conn.core.flushDue = true
	}
}

// write copies b to the output, over several chunks if it is long.
func (conn *Conn) write(b []byte) {
	for len(b) > 0 {
		n := min(len(b), chunkSize)
		i := conn.reserve(n)
		conn.out.chunks[i] = append(conn.out.chunks[i], b[:n]...)
		conn.added(n)
		b = b[n:]
	}
}

// writePacket copies a whole packet that is no PUBLISH to the output.
func (conn *Conn) writePacket(b []byte) {
	conn.core.stats.PacketsSent++
	conn.write(b)
}

// writeForm copies a whole PUBLISH and patches its first byte and, if idOffset is not 0, its identifier. It is the
// end of the hot path.
func (conn *Conn) writeForm(whole []byte, first byte, idOffset int, id uint16) {
	if len(whole) > chunkSize {
		conn.writeLongForm(whole, first, idOffset, id)
		return
	}
	i := conn.reserve(len(whole))
	at := len(conn.out.chunks[i])
	chunk := append(conn.out.chunks[i], whole...)
	chunk[at] = first
	if idOffset != 0 {
		chunk[at+idOffset] = byte(id >> 8)
		chunk[at+idOffset+1] = byte(id)
	}
	conn.out.chunks[i] = chunk
	conn.added(len(whole))
}

// writeLongForm is writeForm for what does not fit into a chunk.
func (conn *Conn) writeLongForm(whole []byte, first byte, idOffset int, id uint16) {
	conn.write([]byte{first})
	if idOffset == 0 {
		conn.write(whole[1:])
		return
	}
	conn.write(whole[1:idOffset])
	conn.write([]byte{byte(id >> 8), byte(id)})
	conn.write(whole[idOffset+2:])
}

// writePublish encodes p, of which size is the exact size.
func (conn *Conn) writePublish(p *packet.Publish, size int) {
	if size > chunkSize {
		c := conn.core
		c.scratch = p.Append(c.scratch[:0], conn.version)
		conn.write(c.scratch)
		c.scratch = bounded(c.scratch)
		return
	}
	i := conn.reserve(size)
	conn.out.chunks[i] = p.Append(conn.out.chunks[i], conn.version)
	conn.added(size)
}

// bounded gives a scratch buffer up once it has grown beyond what is worth keeping.
func bounded(b []byte) []byte {
	if cap(b) > 4*chunkSize {
		return nil
	}
	return b
}

// Pending returns what is to be written, in order. It is valid until the next call of any method of the Core or Conn.
func (conn *Conn) Pending() [][]byte {
	out := &conn.out
	if out.size == 0 {
		return nil
	}
	if out.start == 0 {
		return out.chunks
	}
	conn.core.pending = append(conn.core.pending[:0], out.chunks...)
	conn.core.pending[0] = conn.core.pending[0][out.start:]
	return conn.core.pending
}

// Wrote says that the first n bytes of Pending have left.
func (conn *Conn) Wrote(n int) {
	out := &conn.out
	if n < 0 || n > out.size {
		panic("BUG: core: more written than was pending")
	}
	out.size -= n
	n += out.start
	gone := 0
	for gone < len(out.chunks) && n >= len(out.chunks[gone]) {
		n -= len(out.chunks[gone])
		out.held -= cap(out.chunks[gone])
		conn.core.pool.put(out.chunks[gone])
		gone++
	}
	out.start = n
	out.drop(gone)
	if s := conn.session; s != nil && s.blocked && out.size < chunkSize {
		s.blocked = false
		conn.core.wantPull(s)
	}
}

// drop removes the first n chunks.
func (out *output) drop(n int) {
	if n == 0 {
		return
	}
	rest := copy(out.chunks, out.chunks[n:])
	clear(out.chunks[rest:])
	out.chunks = out.chunks[:rest]
	if rest == 0 && cap(out.chunks) > 4 {
		out.chunks = nil
	}
}

// discard gives all chunks back.
func (conn *Conn) discard() {
	for _, chunk := range conn.out.chunks {
		conn.core.pool.put(chunk)
	}
	conn.out = output{}
}

// overBound reports that this connection has as much output waiting as it may have, or that the memory for all of
// them is used up and it has its share.
func (conn *Conn) overBound() bool {
	c := conn.core
	return conn.out.held >= c.cfg.OutputBytes || conn.out.size >= ownShare && c.memory() >= c.cfg.MemoryBytes
}

// readsNothing reports that the client asks and asks and does not take the answers: nothing else gets output so far.
func (conn *Conn) readsNothing() bool {
	c := conn.core
	return conn.out.held >= 2*c.cfg.OutputBytes || conn.out.held >= 2*chunkSize && c.memory() >= 2*c.cfg.MemoryBytes
}

// ownShare is what a connection may always have waiting, in bytes.
const ownShare = 1 << 10
