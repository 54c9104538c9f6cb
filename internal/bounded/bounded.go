// Package bounded serves HTTP to whoever connects, at a cost that has a limit: so many
// connections, so many bytes before a request is understood, and so long for each part
// of it.
//
// A limit that lets newcomers wait, or turns them away, would let a stranger keep the
// kubelet's probe out by connections that it holds. So a newcomer is always taken, and
// the oldest connection of the source that has most is closed for it: whoever asks
// and has its answer within a moment is not touched.
package bounded

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Connections is how many there are at a time (docs/design/bounds.md).
const Connections = 64

// Server returns a server with limits on time and bytes (docs/design/bounds.md).
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
}

// Listen listens on TCP; no more than Connections are open at a time.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, by: map[netip.Addr]*list.List{}}, nil
}

type listener struct {
	net.Listener
	mu    sync.Mutex
	total int
	// by has the connections of each source, oldest first; of none that has none.
	by map[netip.Addr]*list.List
}

// A conn is a connection that counts until it is closed.
type conn struct {
	net.Conn
	l    *listener
	from netip.Addr
	at   *list.Element // Owned by l.mu; nil once it does not count.
}

// Accept takes a connection, and closes another if there are too many.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	taken, evicted := l.take(c)
	if evicted != nil {
		_ = evicted.Close()
	}
	return taken, nil
}

func (l *listener) take(c net.Conn) (taken, evicted *conn) {
	from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	taken = &conn{Conn: c, l: l, from: from.Addr().Unmap().WithZone("")}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total == Connections {
		var most *list.List
		for _, of := range l.by {
			if most == nil || of.Len() > most.Len() {
				most = of
			}
		}
		evicted = most.Front().Value.(*conn)
		l.drop(evicted)
	}
	if l.by[taken.from] == nil {
		l.by[taken.from] = list.New()
	}
	taken.at = l.by[taken.from].PushBack(taken)
	l.total++
	return taken, evicted
}

// drop has a connection count no more; the caller holds mu.
func (l *listener) drop(c *conn) {
	if c.at == nil {
		return
	}
	of := l.by[c.from]
	of.Remove(c.at)
	if of.Len() == 0 {
		delete(l.by, c.from)
	}
	c.at = nil
	l.total--
}

// Close closes the connection.
func (c *conn) Close() error {
	c.l.mu.Lock()
	c.l.drop(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}
