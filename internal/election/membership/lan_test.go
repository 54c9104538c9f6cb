package membership

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/election"
)

// A lan is a network without sockets, for members that live by a virtual clock.
// It delays and loses packets, and knows of hosts without power and of processes
// that were killed or stopped.
type lan struct {
	mu   sync.Mutex
	rand *rand.Rand
	// loss is the share of packets that get lost on their way, in each
	// direction.
	loss float64
	// apart tells hosts between which nothing passes; nil separates none.
	apart func(a, b netip.Addr) bool
	// filtered tells hosts between which packets are lost and connections are not; nil: none.
	filtered func(a, b netip.Addr) bool
	// tapped keeps all that is sent; nil for nothing.
	tapped   *[]recorded
	stations map[netip.Addr]*station
}

// A station is a host's place in the network: its kernel, which answers for
// itself.
type station struct {
	off     bool
	process *endpoint // Nil while none runs.
}

func newLAN(seed uint64) *lan {
	return &lan{rand: rand.New(rand.NewPCG(seed, 4)), stations: map[netip.Addr]*station{}}
}

// A packet's way takes a quarter of a millisecond, give or take: two kernels, a
// switch, and whoever is to be woken.
const (
	shortest = 100 * time.Microsecond
	spreads  = 400 * time.Microsecond
	// resend is after how long TCP sends again what was not acknowledged.
	resend = 200 * time.Millisecond
)

// crosses reports whether a packet sent now arrives, and how long that takes.
func (l *lan) crosses(from, to netip.Addr) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, b := l.stations[from], l.stations[to]
	if a == nil || b == nil || a.off || b.off || l.apart != nil && l.apart(from, to) || l.rand.Float64() < l.loss {
		return 0, false
	}
	return shortest + rand.N(spreads), true
}

// answers reports whether the kernel of a host answers one question, and waits
// for the answer.
func (l *lan) answers(from, to netip.Addr) bool {
	there, arrives := l.crosses(from, to)
	back, returns := l.crosses(to, from)
	if !arrives || !returns {
		return false
	}
	time.Sleep(there + back)
	return true
}

// power switches a host on or off. Its process is the caller's business.
func (l *lan) power(a netip.Addr, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stations[a].off = !on
}

func (l *lan) separate(apart func(a, b netip.Addr) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apart = apart
}

// filter loses packets from one host to another, but not what goes by connections; nil:
// none.
func (l *lan) filter(lost func(from, to netip.Addr) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filtered = lost
}

// A recorded is what was sent: a packet, or a part of a stream.
type recorded struct {
	from   netip.AddrPort
	to     netip.Addr
	b      []byte
	stream *stream
}

func (l *lan) record(r recorded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tapped != nil {
		*l.tapped = append(*l.tapped, r)
	}
}

// tap has all that is sent from now on kept; it returns what ends that.
func (l *lan) tap() (end func() []recorded) {
	var all []recorded
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tapped = &all
	return func() []recorded {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tapped = nil
		return all
	}
}

// replay sends it all again, a packet or stream every millisecond, to whom it went then.
func (l *lan) replay(all []recorded) {
	streams := map[*stream][]byte{}
	for _, r := range all {
		if r.stream != nil {
			streams[r.stream] = append(streams[r.stream], r.b...)
		}
	}
	for _, r := range all {
		process := l.process(r.to)
		if process == nil {
			continue
		}
		switch whole := streams[r.stream]; {
		case r.stream == nil:
			process.receive(&memberlist.Packet{Buf: slices.Clone(r.b), From: net.UDPAddrFromAddrPort(r.from), Timestamp: time.Now()})
		case whole == nil:
			continue
		default:
			delete(streams, r.stream)
			here, there := net.Pipe()
			if !process.accept(&stream{Conn: there, end: process, peer: r.from.Addr()}) {
				continue
			}
			_ = here.SetDeadline(time.Now().Add(time.Second))
			go func() { _, _ = here.Write(whole) }()
			go func() { _, _ = io.Copy(io.Discard, here) }()
		}
		time.Sleep(time.Millisecond)
	}
}

// passes reports whether packets pass from one host to another at all.
func (l *lan) passes(from, to netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.filtered == nil || !l.filtered(from, to)
}

func (l *lan) lose(share float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loss = share
}

func (l *lan) process(a netip.Addr) *endpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.stations[a]; s != nil {
		return s.process
	}
	return nil
}

// open is what a process of that host opens to gossip.
func (l *lan) open(bind netip.AddrPort) *endpoint {
	e := &endpoint{
		lan: l, bind: bind,
		packets: make(chan *memberlist.Packet, socketDepth), streams: make(chan net.Conn, socketDepth),
		done: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stations[bind.Addr()]
	if s == nil {
		s = &station{}
		l.stations[bind.Addr()] = s
	}
	s.process = e
	return e
}

// socketDepth is how many packets a socket holds, about as many small ones as
// the kernel's default of 208 KiB has room for.
const socketDepth = 256

// An endpoint is one process's transport.
type endpoint struct {
	lan     *lan
	bind    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}

	mu sync.Mutex
	// stopped is closed when the process continues; nil while it runs.
	stopped chan struct{}
	held    []*memberlist.Packet
	conns   map[net.Conn]bool
	closed  bool

	spent traffic
	// overrun counts packets for which the socket had no room.
	overrun atomic.Int64
}

// traffic is what was sent, with 28 bytes of IP and UDP for each packet.
type traffic struct{ packets, bytes atomic.Int64 }

const headers = 28

func (t *traffic) count(n int) {
	t.packets.Add(1)
	t.bytes.Add(int64(n) + headers)
}

var _ memberlist.NodeAwareTransport = (*endpoint)(nil)

// stop stops the process, as SIGSTOP does: its kernel goes on, and takes in for
// it what there is room for. It returns what continues the process.
func (e *endpoint) stop() (resume func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	stopped := make(chan struct{})
	e.stopped = stopped
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.stopped != stopped {
			return
		}
		for _, p := range e.held {
			e.packets <- p // There is room: nobody else puts in.
		}
		e.stopped, e.held = nil, nil
		close(stopped)
	}
}

// running waits until the process is not stopped.
func (e *endpoint) running() {
	e.mu.Lock()
	stopped := e.stopped
	e.mu.Unlock()
	if stopped != nil {
		select {
		case <-stopped:
		case <-e.done:
		}
	}
}

func (e *endpoint) receive(p *memberlist.Packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
	case len(e.held)+len(e.packets) >= socketDepth:
		e.overrun.Add(1)
	case e.stopped != nil:
		e.held = append(e.held, p)
	default:
		e.packets <- p
	}
}

func (e *endpoint) WriteTo(b []byte, addr string) (time.Time, error) {
	e.running()
	to := netip.MustParseAddrPort(addr).Addr()
	e.spent.count(len(b))
	e.lan.record(recorded{from: e.bind, to: to, b: slices.Clone(b)})
	if delay, arrives := e.lan.crosses(e.bind.Addr(), to); arrives && e.lan.passes(e.bind.Addr(), to) {
		time.AfterFunc(delay, func() {
			if process := e.lan.process(to); process != nil {
				process.receive(&memberlist.Packet{Buf: b, From: net.UDPAddrFromAddrPort(e.bind), Timestamp: time.Now()})
			}
		})
	}
	return time.Now(), nil
}

func (e *endpoint) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return e.WriteTo(b, a.Addr)
}

func (e *endpoint) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	e.running()
	to := netip.MustParseAddrPort(addr).Addr()
	e.spent.count(20)
	if !e.lan.answers(e.bind.Addr(), to) {
		// A SYN that is lost is sent again after a second.
		select {
		case <-time.After(min(timeout, dialTimeout)):
		case <-e.done:
		}
		return nil, os.ErrDeadlineExceeded
	}
	process := e.lan.process(to)
	if process == nil {
		return nil, syscall.ECONNREFUSED
	}
	a, b := net.Pipe()
	if !process.accept(&stream{Conn: b, end: process, peer: e.bind.Addr()}) {
		return nil, syscall.ECONNREFUSED
	}
	return e.track(&stream{Conn: a, end: e, peer: to}), nil
}

func (e *endpoint) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return e.DialTimeout(a.Addr, timeout)
}

func (e *endpoint) accept(s *stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.streams) == cap(e.streams) {
		return false
	}
	e.conns[s.Conn] = true
	e.streams <- s
	return true
}

func (e *endpoint) track(s *stream) *stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		_ = s.Conn.Close()
	}
	e.conns[s.Conn] = true
	return s
}

func (e *endpoint) PacketCh() <-chan *memberlist.Packet { return e.packets }

func (e *endpoint) StreamCh() <-chan net.Conn { return e.streams }

func (e *endpoint) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return e.bind.Addr().AsSlice(), int(e.bind.Port()), nil
}

// Shutdown ends the process: its kernel refuses from now on.
func (e *endpoint) Shutdown() error {
	e.lan.mu.Lock()
	if s := e.lan.stations[e.bind.Addr()]; s.process == e {
		s.process = nil
	}
	e.lan.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed = true
		close(e.done)
		for c := range e.conns {
			_ = c.Close()
		}
	}
	return nil
}

// A stream is one end of a connection. What is lost of it comes again later.
type stream struct {
	net.Conn
	end      *endpoint
	peer     netip.Addr
	deadline time.Time
}

func (s *stream) SetDeadline(t time.Time) error {
	s.deadline = t
	return s.Conn.SetDeadline(t)
}

func (s *stream) Write(b []byte) (int, error) {
	s.end.running()
	for {
		s.end.spent.count(len(b))
		delay, arrives := s.end.lan.crosses(s.end.bind.Addr(), s.peer)
		if arrives {
			s.end.lan.record(recorded{from: s.end.bind, to: s.peer, b: slices.Clone(b), stream: s})
			time.Sleep(delay)
			return s.Conn.Write(b)
		}
		time.Sleep(resend)
		if !s.deadline.IsZero() && time.Now().After(s.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.end.running()
	return n, err
}

func (s *stream) Close() error {
	s.end.mu.Lock()
	delete(s.end.conns, s.Conn)
	s.end.mu.Unlock()
	return s.Conn.Close()
}

// A wireSegment is the segment on which a host announces, which is the network
// it gossips on: six questions, ten milliseconds apart.
type wireSegment struct {
	lan  *lan
	self netip.Addr
}

func (s wireSegment) Confirm(ctx context.Context, q election.Question) election.Reply {
	for range 6 {
		if process := s.lan.process(s.self); process != nil {
			process.running()
		}
		if s.lan.answers(s.self, q.Suspect.Address) {
			return election.Answers
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return election.Unknown
		}
	}
	return election.Silent
}
