// Package watch runs the sessions by which speakers watch each other on the segments
// that they announce on: BFD (RFC 5880), every 30 ms, on a port of their own beside
// that of gossip, signed with a key that is derived from that of gossip.
//
// What a session finds is no verdict. A member that is missed is asked on its segment,
// and that decides (package election).
//
// # Goroutines
//
//	who starts it   what it does                                  what ends it
//	Watcher.Run     all sessions of a family, and their socket     its context
//	Watcher.Run     begins and ends soundings                      its context
//	the last one    one sounding                                   what is wanted, or its context
//
// A session is sent for, listened to and timed by one goroutine, which reads what has
// arrived before it takes anybody for silent: a process that was stopped does not
// suspect the others when it wakes.
//
// See docs/design/detection.md.
package watch

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/sockfilter"
)

// DefaultPort is the UDP port of the sessions.
const DefaultPort = 7874

// docs/design/detection.md has the reasons.
const (
	// interval is the time between two packets, and multiplier how many may be missing.
	interval   = 30 * time.Millisecond
	multiplier = 3
	// begin is the interval of a session that is not up.
	begin = 100 * time.Millisecond
	// reopen is the pause before a socket that broke is opened again.
	reopen = 5 * time.Second
)

// ttl is that of every packet: a host that is farther than one hop cannot produce it (RFC
// 5082). class is network control, and priority its place in this host's own queues.
const ttl, class, priority = 255, 0xc0, 6

// A Config is what a Watcher needs to know.
type Config struct {
	// Port is the same on all nodes; 0 is DefaultPort.
	Port uint16
	// Keys are those of gossip.
	Keys gossipkey.Ring
}

// A Sounder asks a station for an address of its own now and then, so as to know how
// late the answers on its segment are.
type Sounder interface {
	Sound(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC)
}

// A Watcher runs the sessions of a node.
type Watcher struct {
	log     *slog.Logger
	metrics *metrics
	sounder Sounder
	port    uint16

	session atomic.Pointer[bfd.Config]
	wanted  atomic.Pointer[wanted]
	hosts   [2]*host
	changed chan struct{} // soundings
}

// What is wanted, and whom to tell of what is seen.
type wanted struct {
	ring election.Ring
	seen func(election.Watch, election.Sight)
}

// New returns a Watcher that does nothing until Run.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer, sounder Sounder) *Watcher {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	w := &Watcher{
		log: log, metrics: newMetrics(reg), sounder: sounder, port: cfg.Port, changed: make(chan struct{}, 1),
	}
	w.session.Store(sessionOf(cfg.Keys))
	w.wanted.Store(&wanted{})
	for i, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		w.hosts[i] = &host{Watcher: w, family: family, wake: make(chan struct{}, 1)}
	}
	return w
}

// sessionOf returns how sessions run that are signed with keys of gossip.
func sessionOf(keys gossipkey.Ring) *bfd.Config {
	c := &bfd.Config{
		Transmit: interval, Receive: interval, Multiplier: multiplier, Begin: begin,
		Authentication: bfd.Authentication{Type: bfd.MeticulousKeyedSHA1, Keys: []bfd.Key{keyOf(keys.Send)}},
	}
	if !keys.Also.None() {
		c.Authentication.Keys = append(c.Authentication.Keys, keyOf(keys.Also))
	}
	return c
}

// SetKeys replaces the keys that sessions are signed with. No session ends. It does not
// wait.
func (w *Watcher) SetKeys(keys gossipkey.Ring) {
	w.session.Store(sessionOf(keys))
	w.wake()
}

// wake has the hosts look at what is wanted.
func (w *Watcher) wake() {
	for _, h := range w.hosts {
		poke(h.wake)
		if c := h.conn.Load(); c != nil {
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// keyOf derives the key of the sessions from that of gossip, so that neither is worth
// anything for the other.
func keyOf(gossip gossipkey.Key) bfd.Key {
	mac := hmac.New(sha256.New, gossip[:])
	mac.Write([]byte("belfry detection"))
	return bfd.NewKey(1, string(mac.Sum(nil)[:bfd.KeyLen]))
}

// Set replaces who is watched. Seen is called when what a session sees has changed; it
// must not wait. Set does not wait either.
func (w *Watcher) Set(ring election.Ring, seen func(election.Watch, election.Sight)) {
	w.wanted.Store(&wanted{ring, seen})
	poke(w.changed)
	w.wake()
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run watches until ctx is done, and then tells the other ends that this is no
// failure.
func (w *Watcher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, h := range w.hosts {
		wg.Go(func() { h.run(ctx) })
	}
	wg.Go(func() { w.sound(ctx) })
	wg.Wait()
}

// sound runs the soundings.
func (w *Watcher) sound(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[election.SegmentQuestion]context.CancelFunc{}
	for {
		want := w.wanted.Load().ring.Soundings
		for q, cancel := range running {
			if !slices.Contains(want, q) {
				cancel()
				delete(running, q)
			}
		}
		for _, q := range want {
			if running[q] == nil {
				sounding, cancel := context.WithCancel(ctx)
				running[q] = cancel
				wg.Go(func() { defer cancel(); w.sounder.Sound(sounding, q.Interface, q.Target, q.MAC) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
	}
}

// A host runs the sessions of one family.
type host struct {
	*Watcher
	family lb.Family
	wake   chan struct{}
	conn   atomic.Pointer[net.UDPConn] // nil while there is none

	// What follows belongs to run.
	sessions map[path]*session
}

// A path is the two ends of a session.
type path struct{ local, remote netip.Addr }

// A session is one Watch.
type session struct {
	*bfd.Session
	watch   election.Watch
	seen    func(election.Watch, election.Sight)
	control []byte // says from where and by which interface to send
	sight   election.Sight
}

// run opens the socket once there is a member to watch, and serves it until ctx is done.
func (h *host) run(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		if !h.wants() {
			select {
			case <-ctx.Done():
			case <-h.wake:
			}
			continue
		}
		err := h.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if !said {
			h.log.Warn("cannot watch other speakers; failures are detected by gossip alone, will retry", "port", h.port, "family", h.family, "err", err)
			said = true
		}
		timer := time.NewTimer(reopen)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wants reports whether there is a member of the family to watch.
func (h *host) wants() bool {
	return slices.ContainsFunc(h.wanted.Load().ring.Watches, h.ours)
}

func (h *host) ours(w election.Watch) bool { return lb.FamilyOf(w.Remote) == h.family }

// serve runs the sessions until the socket breaks or ctx is done.
func (h *host) serve(ctx context.Context) (err error) {
	conn, err := h.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	h.conn.Store(conn)
	defer h.conn.Store(nil)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	h.sessions = map[path]*session{}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		for _, s := range h.sessions {
			s.see(election.NoSight)
			if err == nil {
				h.send(conn, s, s.Close())
			}
		}
		h.sessions = nil
		h.count()
	}()

	start := time.Now()
	var known *wanted
	var signed *bfd.Config
	in := newReceiver(h.family)
	for {
		if session := h.session.Load(); session != signed {
			signed = session
			for _, s := range h.sessions {
				s.Reconfigure(*session, time.Since(start))
			}
		}
		if want := h.wanted.Load(); want != known {
			known = want
			h.set(conn, want, *signed, time.Since(start))
		}
		if ctx.Err() != nil {
			return nil
		}
		next := h.tick(conn, raw, in, start)
		if err := conn.SetReadDeadline(start.Add(next)); err != nil {
			return err
		}
		if h.wanted.Load() != known || h.session.Load() != signed || ctx.Err() != nil {
			continue // their deadline may have been before ours
		}
		p, err := in.next(raw)
		if err != nil && !errors.Is(err, errDeadline) {
			return err
		}
		if err == nil {
			h.take(conn, p, time.Since(start))
		}
	}
}

// set begins and ends sessions until they are those that are wanted.
func (h *host) set(conn *net.UDPConn, want *wanted, signed bfd.Config, now time.Duration) {
	keep := map[path]bool{}
	for _, w := range want.ring.Watches {
		if !h.ours(w) {
			continue
		}
		p := path{w.Local, w.Remote}
		keep[p] = true
		if s := h.sessions[p]; s != nil && s.watch == w {
			s.seen = want.seen
			continue
		} else if s != nil {
			h.send(conn, s, s.Close())
		}
		h.sessions[p] = &session{
			Session: bfd.NewSession(signed, h.discriminator(), now, rand.Float64),
			watch:   w, seen: want.seen, control: controlOf(w),
		}
	}
	for p, s := range h.sessions {
		if !keep[p] {
			h.send(conn, s, s.Close())
			delete(h.sessions, p)
		}
	}
	h.count()
}

// discriminator returns one that no session has, and that no one can guess.
func (h *host) discriminator() uint32 {
	for {
		n := rand.Uint32()
		used := n == 0
		for _, s := range h.sessions {
			used = used || s.Local() == n
		}
		if !used {
			return n
		}
	}
}

// tick lets time pass for all sessions, and returns when to do so again.
func (h *host) tick(conn *net.UDPConn, raw syscall.RawConn, in *receiver, start time.Time) time.Duration {
	now := time.Since(start)
	for _, s := range h.sessions {
		if s.Silent(now) {
			// A timer and a packet may be there at once.
			for {
				p, err := in.waiting(raw)
				if err != nil {
					break
				}
				h.take(conn, p, time.Since(start))
			}
			break
		}
	}
	next := now + time.Minute
	for _, s := range h.sessions {
		if b, ok := s.Tick(now); ok {
			h.send(conn, s, b)
		}
		h.look(s)
		if at, ok := s.Next(); ok {
			next = min(next, at)
		}
	}
	return next
}

// take gives a packet to its session, if it came the way it should.
func (h *host) take(conn *net.UDPConn, p packet, now time.Duration) {
	s := h.sessions[p.path]
	if s == nil || p.ttl != ttl || p.iface != s.watch.Interface {
		h.metrics.dropped.WithLabelValues(dropForeign).Inc()
		return
	}
	if answer, ok := s.Receive(p.octets, now); ok {
		h.send(conn, s, answer)
	}
	if s.Refusal() != nil {
		h.metrics.dropped.WithLabelValues(dropUnsigned).Inc()
	}
	h.look(s)
}

// look tells what a session sees, if that is new.
func (h *host) look(s *session) {
	before := s.sight
	switch {
	case s.State() == bfd.Up:
		s.see(election.InSight)
	case s.sight == election.InSight && s.Diag() == bfd.DetectionTimeExpired:
		s.see(election.OutOfSight)
		h.metrics.missed.Inc()
	case s.sight == election.InSight:
		s.see(election.NoSight) // The other end says that it does not hear us, or that it goes.
	}
	if s.sight != before {
		h.count()
	}
}

func (s *session) see(sight election.Sight) {
	if s.sight != sight {
		s.sight = sight
		s.seen(s.watch, sight)
	}
}

// send sends a packet. One that cannot be sent is a packet lost.
func (h *host) send(conn *net.UDPConn, s *session, b []byte) {
	_, _, _ = conn.WriteMsgUDPAddrPort(b, s.control, netip.AddrPortFrom(s.watch.Remote, h.port))
}

// count says how many sessions there are.
func (h *host) count() {
	up := 0
	for _, s := range h.sessions {
		if s.sight == election.InSight {
			up++
		}
	}
	h.metrics.sessions.WithLabelValues(h.family.String(), "up").Set(float64(up))
	h.metrics.sessions.WithLabelValues(h.family.String(), "down").Set(float64(len(h.sessions) - up))
}

// open opens the socket of all sessions.
func (h *host) open(ctx context.Context) (*net.UDPConn, error) {
	type option struct{ level, name, value int }
	network, options := "udp4", []option{
		{unix.IPPROTO_IP, unix.IP_TTL, ttl},
		{unix.IPPROTO_IP, unix.IP_TOS, class},
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
	}
	if h.family == lb.IPv6 {
		network, options = "udp6", []option{
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
		}
	}
	// The class of service sets another priority.
	options = append(options, option{unix.SOL_SOCKET, unix.SO_PRIORITY, priority})
	l := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = attach(fd)
			for _, o := range options {
				failed = errors.Join(failed, unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
			}
		})
		return errors.Join(err, failed)
	}}
	conn, err := l.ListenPacket(ctx, network, fmt.Sprintf(":%d", h.port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// attach has the kernel drop what is too short to be a signed packet of BFD.
func attach(fd uintptr) error {
	const header = 8
	return sockfilter.Attach(fd,
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: header + bfd.PacketLen, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	)
}

// controlOf says from which address, and by which interface, a session sends.
func controlOf(w election.Watch) []byte {
	if w.Local.Is4() {
		return (&ipv4.ControlMessage{Src: w.Local.AsSlice(), IfIndex: w.Interface}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: w.Local.AsSlice(), IfIndex: w.Interface}).Marshal()
}
