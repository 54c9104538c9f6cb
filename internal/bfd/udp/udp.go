// Package udp carries BFD sessions over UDP: port 3784 one hop away (RFC 5881),
// 4784 farther off (RFC 5883).
//
// Packets are accepted from the one address that a session watches, on the one
// address it runs from, with a TTL that no distant host can produce: 255 for one
// hop (RFC 5082), the profile's minimum for several. The kernel drops those from
// farther than one hop, and those that are no packets of BFD, before they cost a
// system call. What may begin a session but names none waits apart, one at a time,
// so that however many there are they displace nothing that names the session.
//
// # Goroutines
//
//	who starts it       what it does                            what ends it
//	Monitor.Run         reads one socket, of up to four          its context
//	Monitor.Watch       (its caller's) runs one session           its context
//
// A port that another program on the node holds leaves the sessions that need it
// down, with a word about it; it ends nothing else.
package udp

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bfd"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/sockfilter"
)

// Ports (RFC 5881 section 4, RFC 5883 section 5).
const (
	portSingleHop = 3784
	portMultihop  = 4784
)

// docs/design/bfd.md has the reason.
const patience = 5 * time.Second

// sourcePorts are those that packets may come from (RFC 5881 section 4).
const firstSourcePort, lastSourcePort = 49152, 65535

// ttl is that of every packet we send; class is its class of service, network control
// (CS6), and priority that in this host's own queues, TC_PRIO_INTERACTIVE, the highest
// that needs no right.
const ttl, class, priority = 255, 0xc0, 6

// A Path is what a session watches.
type Path struct {
	// Local and Remote are its ends; link-local addresses have a zone.
	Local, Remote netip.Addr
	// Device is bound to; empty for none.
	Device string
	// Multihop is set when the ends are not on one link.
	Multihop bool
}

// A Change tells that a session went up or down, or why it stays down.
type Change struct {
	State bfd.State
	// Failed is set when the path is lost: the session was up, and the other end
	// did not go out of service of its own will.
	Failed bool
	// Why is the reason of a session that is down, in words.
	Why string
}

// A Monitor holds the sockets that BFD packets arrive at.
type Monitor struct {
	log *slog.Logger
	// secret makes discriminators.
	secret string
	// patience is how long a session may be down before it is told what may be the
	// cause.
	patience time.Duration

	mu sync.Mutex
	// byLocal finds sessions by our discriminator, byPath those that have not
	// yet heard from the other end.
	byLocal map[uint32]*session
	byPath  map[pathKey]*session
	// faults says of each port why it is not read.
	faults map[socket]error
}

type pathKey struct {
	local, remote netip.Addr
	multihop      bool
}

// A socket is one that packets arrive at.
type socket struct{ v6, multihop bool }

// A session is one Watch.
type session struct {
	// in takes the packets that name the session, knocks those that name none.
	in, knocks chan []byte
	// minTTL is the least TTL that a packet may have come with; it belongs to the
	// Monitor.
	minTTL int
}

// catchUp gives a session that would take the other end for silent what has come from it:
// a timer and a packet may be there at once.
func (in *session) catchUp(s *bfd.Session, now time.Duration, send func([]byte)) {
	for s.Silent(now) && len(in.in) > 0 {
		if answer, ok := s.Receive(<-in.in, now); ok {
			send(answer)
		}
	}
}

// New returns a Monitor; it receives nothing until Run.
func New(log *slog.Logger) *Monitor {
	return &Monitor{log: log, secret: crand.Text(), patience: patience, byLocal: map[uint32]*session{}, byPath: map[pathKey]*session{}, faults: map[socket]error{}}
}

// Run receives packets until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, s := range []socket{{false, false}, {true, false}, {false, true}, {true, true}} {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := m.read(ctx, s)
				m.mu.Lock()
				first := m.faults[s] == nil
				m.faults[s] = err
				m.mu.Unlock()
				if ctx.Err() == nil && first {
					m.log.Warn("cannot receive BFD packets; will retry", "port", s.port(), "ipv6", s.v6, "err", err)
				}
				timer := time.NewTimer(5 * time.Second)
				select {
				case <-ctx.Done():
				case <-timer.C:
				}
				timer.Stop()
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (s socket) port() int { return portOf(s.multihop) }

func portOf(multihop bool) int {
	if multihop {
		return portMultihop
	}
	return portSingleHop
}

// read receives from one socket until it fails or ctx ends.
func (m *Monitor) read(ctx context.Context, s socket) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	network := "udp4"
	if s.v6 {
		network = "udp6"
	}
	l := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = sockfilter.Attach(fd, s.filter()...) })
		return errors.Join(err, failed)
	}}
	listening, err := l.ListenPacket(ctx, network, fmt.Sprintf(":%d", s.port()))
	if err != nil {
		return fmt.Errorf("listen: %w", plain(err))
	}
	conn := listening.(*net.UDPConn)
	defer conn.Close()
	// The port is free once this returns: who closes a socket that another reads may be
	// the last to let go of it.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		conn.Close()
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	receive, err := receiver(conn, s.v6)
	if err != nil {
		return fmt.Errorf("listen: %w", plain(err))
	}
	m.mu.Lock()
	delete(m.faults, s)
	m.mu.Unlock()
	b := make([]byte, 256)
	for {
		a, n, err := receive(b)
		if err != nil {
			return plain(err)
		}
		if p, err := bfd.Parse(b[:n]); err == nil {
			m.deliver(p, b[:n], a, s.multihop)
		}
	}
}

// An arrival is what the kernel says of a packet.
type arrival struct {
	local, remote netip.Addr
	ttl           int
}

// receiver returns a function that reads packets with what the kernel says of
// them.
func receiver(conn *net.UDPConn, v6 bool) (func([]byte) (arrival, int, error), error) {
	if v6 {
		c := ipv6.NewPacketConn(conn)
		if err := c.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
			return nil, err
		}
		return func(b []byte) (arrival, int, error) {
			for {
				n, cm, from, err := c.ReadFrom(b)
				if err != nil {
					return arrival{}, 0, err
				}
				remote := from.(*net.UDPAddr).AddrPort().Addr().Unmap()
				local, ok := netip.AddrFromSlice(cmDst6(cm))
				if !ok {
					continue
				}
				return arrival{local.WithZone(remote.Zone()), remote, cm.HopLimit}, n, nil
			}
		}, nil
	}
	c := ipv4.NewPacketConn(conn)
	if err := c.SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst, true); err != nil {
		return nil, err
	}
	return func(b []byte) (arrival, int, error) {
		for {
			n, cm, from, err := c.ReadFrom(b)
			if err != nil {
				return arrival{}, 0, err
			}
			if cm == nil {
				continue
			}
			local, ok := netip.AddrFromSlice(cm.Dst.To4())
			if !ok {
				continue
			}
			return arrival{local, from.(*net.UDPAddr).AddrPort().Addr().Unmap(), cm.TTL}, n, nil
		}
	}, nil
}

func cmDst6(cm *ipv6.ControlMessage) []byte {
	if cm == nil {
		return nil
	}
	return cm.Dst
}

// deliver gives a packet to the session that it is for, if it came the way it
// should.
func (m *Monitor) deliver(p bfd.Packet, b []byte, a arrival, multihop bool) {
	m.mu.Lock()
	s := m.byPath[pathKey{a.local, a.remote, multihop}]
	if p.Yours != 0 {
		if byLocal := m.byLocal[p.Yours]; byLocal != s {
			s = nil // for another session than the way it came
		}
	}
	welcome := s != nil && a.ttl >= s.minTTL
	m.mu.Unlock()
	if !welcome {
		return
	}
	in := s.in
	if p.Yours == 0 {
		in = s.knocks
	}
	select {
	case in <- bytes.Clone(b):
	default: // more than a session takes is noise
	}
}

// ConfigOf returns what a profile asks of a session.
func ConfigOf(p lb.BFDProfile) bfd.Config {
	c := bfd.Config{Transmit: p.Transmit, Receive: p.Receive, Multiplier: p.DetectMultiplier, Passive: p.Passive}
	c.Authentication.Type = bfd.AuthType(p.Authentication)
	for _, k := range p.Keys {
		c.Authentication.Keys = append(c.Authentication.Keys, bfd.NewKey(k.ID, k.Password.Reveal()))
	}
	return c
}

// Watch runs a session on a path until ctx ends, and then tells the other end
// that this is no failure. It calls changed when the session goes up or down, and
// when it finds another reason why the session does not come up.
// Profiles carries changes of the profile, which do not interrupt the session.
func (m *Monitor) Watch(ctx context.Context, path Path, profile lb.BFDProfile, profiles <-chan lb.BFDProfile, changed func(Change)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BFD with %s: panic: %v", path.Remote, p)
		}
	}()
	conn, err := open(path)
	if err != nil {
		return fmt.Errorf("BFD with %s: %w", path.Remote, plain(err))
	}
	defer conn.Close()
	start := time.Now()
	now := func() time.Duration { return time.Since(start) }
	in := &session{in: make(chan []byte, 16), knocks: make(chan []byte, 1), minTTL: minTTL(path, profile)}
	key := pathKey{path.Local, path.Remote, path.Multihop}
	local, err := m.enlist(key, in)
	if err != nil {
		return err
	}
	defer m.strike(key, local)

	s := bfd.NewSession(ConfigOf(profile), local, 0, rand.Float64)
	timer := time.NewTimer(0)
	defer timer.Stop()
	// A packet that cannot be sent is a packet lost: the other end will say so.
	to := netip.AddrPortFrom(path.Remote, uint16(portOf(path.Multihop)))
	send := func(b []byte) { _, _ = conn.WriteToUDPAddrPort(b, to) }
	// Between two events of the session one packet is taken that names none, so
	// that a flood of them costs a bounded time.
	knocks := in.knocks
	told := map[string]bool{} // why it does not come up, since it was up or began
	tell := func(why string) {
		if !told[why] {
			told[why] = true
			changed(Change{State: bfd.Down, Why: why})
		}
	}
	doubt := time.NewTimer(m.patience)
	defer doubt.Stop()
	for {
		before := s.State()
		select {
		case <-ctx.Done():
			send(s.Close())
			return nil
		case b := <-in.in:
			if answer, ok := s.Receive(b, now()); ok {
				send(answer)
			}
			knocks = in.knocks
		case b := <-knocks:
			s.Receive(b, now())
			knocks = nil
		case p := <-profiles:
			profile = p
			m.mu.Lock()
			in.minTTL = minTTL(path, profile)
			m.mu.Unlock()
			s.Reconfigure(ConfigOf(profile), now())
		case <-timer.C:
			knocks = in.knocks
		case <-doubt.C:
			// A fact counts for more than a guess.
			if s.State() != bfd.Up && len(told) == 0 {
				tell(path.doubt(s.Doubt(), profile))
			}
		}
		in.catchUp(s, now(), send)
		if b, ok := s.Tick(now()); ok {
			send(b)
		}
		if at, ok := s.Next(); ok {
			timer.Reset(at - now())
		} else {
			timer.Stop()
		}
		if after := s.State(); (after == bfd.Up) != (before == bfd.Up) {
			clear(told)
			c := Change{State: after}
			if after != bfd.Up {
				c.State = bfd.Down // whatever it has begun since
				admin := s.Diag() == bfd.NeighborDown && s.RemoteState() == bfd.AdminDown
				c.Failed, c.Why = !admin, s.Diag().String()
				if admin {
					c.Why = outOfService
				}
				told[c.Why] = true
			}
			changed(c)
		}
		if why := s.Refusal(); why != nil && s.State() != bfd.Up {
			tell(why.Error())
		}
	}
}

const outOfService = "the neighbor has taken BFD out of service"

// doubt says what may keep a session from coming up, and what to look at.
func (p Path) doubt(d bfd.Doubt, profile lb.BFDProfile) string {
	switch d {
	case bfd.OutOfService:
		return outOfService
	case bfd.Unanswered:
		return fmt.Sprintf("%s sends BFD packets and hears none of ours: is UDP port %d let through, and does it expect them from %s?", p.Remote, portOf(p.Multihop), p.Local)
	default:
		bound := "255"
		if p.Multihop {
			bound = fmt.Sprintf("%d (minimumTtl) or more", profile.MinimumTTL)
		}
		if profile.Passive {
			bound += "; with passiveMode this end waits for it to begin"
		}
		return fmt.Sprintf("no BFD packet comes from %s to UDP port %d with a TTL of %s: does it run BFD with %s, and is the port let through?", p.Remote, portOf(p.Multihop), bound, p.Local)
	}
}

// minTTL returns the least TTL of a path's packets.
func minTTL(path Path, profile lb.BFDProfile) int {
	if path.Multihop {
		return int(profile.MinimumTTL)
	}
	return ttl
}

// discriminator returns the n-th number for the sessions on a path. It is the same for
// each of them as long as the process lives, so that the other end knows who has come
// back (RFC 5880 section 6.3 permits it); and those who know others cannot guess it.
func (m *Monitor) discriminator(key pathKey, n int) uint32 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %v %v %v %d", m.secret, key.local, key.remote, key.multihop, n))
	return binary.BigEndian.Uint32(sum[:])
}

// enlist lets a session hear what comes its path, and returns its discriminator, which is
// not 0 and that of no other session (RFC 5880 section 6.8.1).
func (m *Monitor) enlist(key pathKey, s *session) (local uint32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byPath[key] != nil {
		return 0, fmt.Errorf("BFD with %s: the path is watched already, by another session; this one has its hold time alone", key.remote)
	}
	if err := m.faults[socket{key.remote.Is6(), key.multihop}]; err != nil {
		return 0, fmt.Errorf("BFD with %s: %w", key.remote, err)
	}
	for n := 0; local == 0 || m.byLocal[local] != nil; n++ {
		local = m.discriminator(key, n)
	}
	m.byLocal[local], m.byPath[key] = s, s
	return local, nil
}

func (m *Monitor) strike(key pathKey, local uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byLocal, local)
	delete(m.byPath, key)
}

// open opens the socket that a session sends from. It is not connected: what ICMP
// says of a packet, which anybody may say, would fail the next one. It hears
// nothing.
func open(path Path) (*net.UDPConn, error) {
	network, level, hops, tos := "udp4", unix.IPPROTO_IP, unix.IP_TTL, unix.IP_TOS
	if path.Remote.Is6() {
		network, level, hops, tos = "udp6", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_TCLASS
	}
	l := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), level, tos, class) // IP_TOS sets a priority of its own
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, priority)
			failed = errors.Join(unix.SetsockoptInt(int(fd), level, hops, ttl), sockfilter.Attach(fd, bpf.RetConstant{Val: 0}))
			if failed == nil && path.Device != "" {
				failed = unix.BindToDevice(int(fd), path.Device)
			}
		})
		return errors.Join(err, failed)
	}}
	var err error
	for range 64 {
		source := uint16(firstSourcePort + rand.IntN(lastSourcePort-firstSourcePort+1))
		var conn net.PacketConn
		conn, err = l.ListenPacket(context.Background(), network, netip.AddrPortFrom(path.Local, source).String())
		if err == nil {
			return conn.(*net.UDPConn), nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, err
}

// filter lets through what can be a packet for a socket: long enough, of version 1
// and, where the other end is one hop away, with the TTL that says so. What a
// filter of a UDP socket sees begins with the UDP header.
func (s socket) filter() []bpf.Instruction {
	const header = 8
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: header + bfd.PacketLen, SkipTrue: 6},
		bpf.LoadAbsolute{Off: header, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 1, SkipTrue: 3},
		bpf.LoadConstant{Dst: bpf.RegA, Val: ttl},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ttl, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
	if !s.multihop {
		at := uint32(8) // IPv4's time to live
		if s.v6 {
			at = 7 // IPv6's hop limit
		}
		// SKF_NET_OFF: from the IP header.
		program[5] = bpf.LoadAbsolute{Off: 0xfff00000 + at, Size: 1}
	}
	return program
}

// plain drops the wrapping that package net puts round an error.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}
