package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// A transport carries gossip over UDP and TCP on one address. Unlike
// memberlist's own it reads into one buffer, sends from the address it listens
// on, and leaves no connection behind.
type transport struct {
	bind    netip.AddrPort
	border  *border
	udp     *net.UDPConn
	tcp     *net.TCPListener
	packets chan *memberlist.Packet
	streams chan net.Conn

	ctx  context.Context // Done once Shutdown was called.
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

const (
	// largest is the largest UDP payload.
	largest = 64 << 10
	// socketBuffer is what the kernel keeps of a stream that is not read.
	socketBuffer = 128 << 10
)

// open opens the transport of a speaker; Shutdown closes it.
func open(bind netip.AddrPort, b *border) (memberlist.NodeAwareTransport, error) {
	t, err := listen(bind, b)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// listen opens the sockets.
func listen(bind netip.AddrPort, b *border) (*transport, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind))
	if err != nil {
		return nil, fmt.Errorf("listen for gossip on TCP %s: %w", bind, err)
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bind))
	if err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("listen for gossip on UDP %s: %w", bind, err)
	}
	// A burst of a few hundred nodes' packets must survive a busy moment. The
	// kernel caps this at net.core.rmem_max, silently.
	_ = udp.SetReadBuffer(2 << 20)
	t := &transport{
		bind: bind, border: b, udp: udp, tcp: tcp,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), conns: map[*conn]struct{}{},
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.wg.Add(2)
	go t.readPackets()
	go t.accept()
	return t, nil
}

func (t *transport) readPackets() {
	defer t.wg.Done()
	buf := make([]byte, largest)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		now := time.Now()
		if err != nil {
			if t.pause() {
				return
			}
			continue
		}
		if n == 0 {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: now}
		select {
		case t.packets <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) accept() {
	defer t.wg.Done()
	for {
		c, err := t.tcp.Accept()
		if err != nil {
			if t.pause() {
				return
			}
			continue
		}
		if err := t.border.enter(remote(c)); err != nil {
			_ = c.Close()
			continue
		}
		_ = c.(*net.TCPConn).SetReadBuffer(socketBuffer) // The kernel would take megabytes.
		taken := t.track(c, load{streams: 1})
		select {
		case t.streams <- taken:
		case <-t.ctx.Done():
			_ = taken.Close()
			return
		}
	}
}

// pause waits a moment after an error of a socket, such as too many open
// files; it reports whether the transport is shut down.
func (t *transport) pause() bool {
	select {
	case <-t.ctx.Done():
		return true
	case <-time.After(10 * time.Millisecond):
		return false
	}
}

// A conn is a connection that Shutdown closes and whose incoming bytes the
// border counts for as long as it is open.
type conn struct {
	net.Conn
	t    *transport
	from netip.Addr
	had  load // Owned by t.mu.
}

func (t *transport) track(c net.Conn, had load) net.Conn {
	tracked := &conn{Conn: c, t: t, from: remote(c), had: had}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		_ = c.Close()
	}
	t.conns[tracked] = struct{}{}
	return tracked
}

// Read reads what the border lets pass. memberlist keeps all that it reads
// until it closes the connection.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		if over := c.t.keep(c, n); over != nil {
			return 0, over
		}
	}
	return n, err
}

func (t *transport) keep(c *conn, n int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.conns[c]; !open {
		return net.ErrClosed
	}
	if err := t.border.bring(c.from, n); err != nil {
		return err
	}
	c.had.bytes += n
	return nil
}

// Close closes the connection.
func (c *conn) Close() error {
	c.t.mu.Lock()
	if _, open := c.t.conns[c]; open {
		delete(c.t.conns, c)
		c.t.border.leave(c.from, c.had)
	}
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// FinalAdvertiseAddr returns the address bound to.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.bind.Addr().AsSlice(), int(t.bind.Port()), nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// WriteToAddress sends a packet.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh returns the packets received.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns the connections accepted.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// dialTimeout bounds every attempt to connect. A first SYN that is lost is sent
// again after a second, by which time a new attempt is the better idea
// (docs/design/gossip.md).
const dialTimeout = 250 * time.Millisecond

// DialTimeout connects.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: min(timeout, dialTimeout), LocalAddr: &net.TCPAddr{IP: t.bind.Addr().AsSlice(), Zone: t.bind.Addr().Zone()}}
	c, err := dialer.DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return t.track(c, load{}), nil
}

// DialAddressTimeout connects.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown closes all sockets and waits for the readers.
func (t *transport) Shutdown() error {
	t.stop()
	err := errors.Join(t.udp.Close(), t.tcp.Close())
	t.mu.Lock()
	for c := range t.conns {
		_ = c.Conn.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

// hostPort returns the text form that transports take.
func hostPort(a netip.Addr, port uint16) string {
	return net.JoinHostPort(a.String(), strconv.Itoa(int(port)))
}
